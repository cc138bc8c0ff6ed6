// One pane of the viewer: a slice of a series, in a window. The server renders; the pane requests one slice at a time.
import { request, requestJson } from "./api.js";
import { el, field, options, showError } from "./dom.js";
import { positionText, provenanceText, windowText } from "./provenance.js";
import { t } from "./texts.js";

const MAX_CACHED = 48; // slices
const PAGE_STEP = 10;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Pane {
  constructor(server, { onScroll = () => {}, onOpen = () => {}, title }) {
    this.presets = server.windows;
    this.onScroll = onScroll;
    this.onOpen = onOpen;
    this.studies = [];
    this.series = [];
    this.cached = new Map();
    this.window = "file";
    this.index = 1;
    this.studySelect = el("select", { onchange: () => this.open(this.studySelect.value) });
    this.seriesSelect = el("select", { onchange: () => this.openSeries(Number(this.seriesSelect.value)) });
    this.windowSelect = el("select", { onchange: () => this.setWindow(this.windowSelect.value) });
    this.slider = el("input", { type: "range", min: "1", max: "1", value: "1", label: "slice", oninput: () => this.scrollTo(Number(this.slider.value)) });
    this.image = el("img", { alt: "", draggable: "false", hidden: true });
    this.overlays = { view: el("span", { class: "overlay nw" }), position: el("span", { class: "overlay sw" }), window: el("span", { class: "overlay se" }) };
    this.errorLine = el("p", { class: "error", role: "alert", hidden: true });
    // Other programs find the page by these hooks: ids of tabs and views, .screen[data-shown], .main.
    this.viewport = el("div", { class: "screen", tabindex: "0", role: "application", label: "viewport" }, this.image, ...Object.values(this.overlays));
    this.tools = el("div", { class: "row" });
    this.view = el("div", { class: "pane" }, el("h3", { text: title }),
      el("div", { class: "row pickers" }, field("study", this.studySelect, "field wide"), field("series", this.seriesSelect), field("window", this.windowSelect)),
      this.viewport, this.slider, this.errorLine, this.tools);
    this.addListeners();
    new ResizeObserver(() => this.fit()).observe(this.viewport);
    this.updateLabels();
  }

  updateLabels() {
    const names = Object.entries(this.presets).map(([name, [center, width]]) => [name, `${t(`window_${name}`)} ${center}/${width}`]);
    const manual = /,/.test(this.window) ? [[this.window, t("window_requested")]] : [];
    options(this.windowSelect, [["file", t("window_file")], ...(this.modality === "CT" ? names : []), ...manual], this.window);
    if (this.series.length) options(this.seriesSelect, this.series.map((series) => [String(series.number), seriesText(series)]), this.seriesSelect.value);
    if (this.studies.length) options(this.studySelect, this.studyOptions(), this.studySelect.value);
    if (this.provenance) this.updateOverlays();
  }

  get modality() { return this.series.find((series) => series.number === Number(this.seriesSelect.value))?.modality; }
  get length() { return Number(this.slider.max); }

  setStudies(studies, selected) {
    this.studies = studies;
    if (!selected) this.close();
    options(this.studySelect, this.studyOptions(), selected ?? "");
    if (selected) this.open(selected);
  }

  close() {
    this.reset();
    this.openedStudy = null;
    this.series = [];
    this.slider.hidden = true;
    options(this.seriesSelect, [], "");
  }

  // No study is selected before one is opened.
  studyOptions() { return [...(this.openedStudy ? [] : [["", "–"]]), ...this.studies.map((study) => [study.id, studyText(study)])]; }

  async open(study) {
    this.reset();
    this.openedStudy = study;
    this.onOpen();
    try {
      const response = await requestJson(`/page/api/study?study=${encodeURIComponent(study)}`);
      if (this.openedStudy !== study) return;
      this.series = response.series;
      const candidates = response.series.filter((series) => !series.is_localizer);
      const longest = (candidates.length ? candidates : response.series).reduce((a, b) => (b.images > a.images ? b : a));
      options(this.seriesSelect, response.series.map((series) => [String(series.number), seriesText(series)]), String(longest.number));
      this.openSeries(longest.number);
    } catch (error) { showError(this.errorLine, error); }
  }

  openSeries(number) {
    this.reset();
    const series = this.series.find((entry) => entry.number === number);
    this.window = "file";
    this.slider.max = String(series.images);
    this.slider.hidden = series.images < 2;
    this.updateLabels();
    this.scrollTo(Math.ceil(series.images / 2), false);
  }

  // A slice of the previous series must not arrive late, or appear under another series' name.
  reset() {
    this.controller?.abort();
    this.controller = null;
    this.clearImage();
    for (const { url } of this.cached.values()) URL.revokeObjectURL(url);
    this.cached.clear();
    showError(this.errorLine, null);
  }

  clearImage() {
    this.slice = this.provenance = null;
    this.image.hidden = true;
    for (const overlay of Object.values(this.overlays)) overlay.textContent = "";
    delete this.viewport.dataset.shown;
  }

  scrollTo(index, notify = true) {
    const next = clamp(Math.round(index), 1, this.length);
    const delta = next - this.index;
    this.index = next;
    this.slider.value = String(next);
    this.draw();
    if (notify && delta) this.onScroll(delta);
  }

  setWindow(window) {
    this.window = window;
    this.updateLabels();
    this.draw();
  }

  // By how much of the modality's units center and width change; a window without numbers starts from the usual ones.
  shiftWindow(center, width) {
    const [c, w] = this.centerAndWidth();
    const wider = clamp(w + width, 1, 99999), higher = clamp(c + center, -99999, 99999);
    this.setWindow(`${higher.toFixed(1)},${wider.toFixed(1)}`);
  }

  centerAndWidth() {
    const requested = /^(-?[\d.]+),([\d.]+)$/.exec(this.window);
    if (requested) return [Number(requested[1]), Number(requested[2])];
    if (this.provenance?.center !== undefined) return [this.provenance.center, this.provenance.width];
    return this.presets[this.window] ?? (this.modality === "CT" ? [40, 400] : [2048, 4096]);
  }

  sliceQuery(index = this.index) {
    return `study=${encodeURIComponent(this.studySelect.value)}&series=${this.seriesSelect.value}&index=${index}&window=${encodeURIComponent(this.window)}`;
  }

  // One request at a time: its result is shown, and then only the latest requested slice is fetched.
  async draw() {
    if (this.controller) return;
    const cached = this.cached.get(this.sliceQuery());
    if (cached) { this.show(cached); return; }
    const key = this.sliceQuery(), controller = new AbortController();
    this.controller = controller;
    this.viewport.setAttribute("aria-busy", "true");
    try {
      const response = await request(`/page/api/slice?${key}`, { signal: controller.signal });
      const blob = await response.blob();
      if (this.controller !== controller) return;
      const slice = { url: URL.createObjectURL(blob), blob, provenance: JSON.parse(response.headers.get("X-Lingshu-Image-Provenance")), key };
      this.addToCache(key, slice);
      await this.show(slice);
    } catch (error) {
      if (error.name === "AbortError" || this.controller !== controller) return;
      this.clearImage();
      showError(this.errorLine, error);
    }
    this.controller = null;
    this.viewport.removeAttribute("aria-busy");
    if (key !== this.sliceQuery()) this.draw();
  }

  addToCache(key, slice) {
    this.cached.set(key, slice);
    if (this.cached.size <= MAX_CACHED) return;
    const [oldest, { url }] = this.cached.entries().next().value;
    this.cached.delete(oldest);
    URL.revokeObjectURL(url);
  }

  async show(slice) {
    showError(this.errorLine, null);
    this.image.src = slice.url;
    await this.image.decode().catch(() => {});
    // A newer slice may have arrived meanwhile: the overlays must match the pixels.
    if (this.image.src !== slice.url) return;
    this.slice = slice;
    this.provenance = slice.provenance;
    this.image.hidden = false;
    this.fit();
    this.updateOverlays();
  }

  // As large as the viewport allows, in the proportions of the anatomy: pixels may not be square.
  fit() {
    if (!this.provenance) return;
    const [high, wide] = this.provenance.spacing ?? [1, 1];
    const ratio = (this.provenance.columns * wide) / (this.provenance.rows * high);
    this.image.style.aspectRatio = String(ratio);
    this.image.classList.toggle("portrait", ratio < this.viewport.clientWidth / this.viewport.clientHeight);
  }

  updateOverlays() {
    const provenance = this.provenance;
    this.image.alt = provenanceText(provenance);
    this.overlays.view.textContent = [provenance.modality, provenance.body_part, provenance.view, provenance.laterality].filter(Boolean).join(" ");
    this.overlays.position.textContent = positionText(provenance);
    this.overlays.window.textContent = windowText(provenance);
    this.viewport.dataset.shown = this.slice.key;
  }

  // The slice as it is shown, for a question or a draft.
  async attachment() {
    if (!this.slice) return null;
    const slice = this.slice;
    const data = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.readAsDataURL(slice.blob);
    });
    const requested = new URLSearchParams(slice.key);
    const ref = { study: requested.get("study"), series: Number(requested.get("series")), index: Number(requested.get("index")), window: requested.get("window") };
    return { label: [slice.provenance.modality, positionText(slice.provenance), windowText(slice.provenance)].filter(Boolean).join(", "), data, preview: data, ref };
  }

  addListeners() {
    let dragStart = null, scrolled = 0;
    this.viewport.addEventListener("wheel", (event) => {
      event.preventDefault();
      scrolled += event.deltaMode ? event.deltaY * 40 : event.deltaY;
      const delta = Math.trunc(scrolled / 40);
      scrolled -= delta * 40;
      if (delta) this.scrollTo(this.index + clamp(delta, -3, 3));
    }, { passive: false });
    this.viewport.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.viewport.setPointerCapture(event.pointerId);
      dragStart = [event.clientX, event.clientY, ...this.centerAndWidth()];
    });
    this.viewport.addEventListener("pointermove", (event) => {
      if (!dragStart) return;
      const [x, y, center, width] = dragStart;
      // Dragging across the image doubles the width: precise for narrow windows, fast for wide ones.
      const unit = (2 * Math.max(width, 40)) / this.viewport.clientWidth;
      const [c, w] = this.centerAndWidth();
      this.shiftWindow(center + (event.clientY - y) * unit * 0.5 - c, width + (event.clientX - x) * unit - w);
    });
    for (const end of ["pointerup", "pointercancel"]) this.viewport.addEventListener(end, () => { dragStart = null; });
    this.viewport.addEventListener("keydown", (event) => this.onKeyDown(event));
  }

  onKeyDown(event) {
    const [, width] = this.centerAndWidth(), step = Math.max(1, width / 20);
    const names = ["file", ...(this.modality === "CT" ? Object.keys(this.presets) : [])];
    const delta = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -PAGE_STEP, PageDown: PAGE_STEP }[event.key];
    const shifts = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey && shifts) this.shiftWindow(...shifts);
    else if (delta) this.scrollTo(this.index + delta);
    else if (event.key === "Home") this.scrollTo(1);
    else if (event.key === "End") this.scrollTo(this.length);
    else if (/^[0-9]$/.test(event.key) && names[Number(event.key)]) this.setWindow(names[Number(event.key)]);
    else return;
    event.preventDefault();
  }
}

function studyText(study) {
  const order = study.total > 1 && study.rank ? t("study_of", study.rank, study.total) : "";
  const patient = study.patient ? t("patient_n", study.patient.slice(0, 6)) : "";
  return [patient, order, [study.modality, study.body_part].filter(Boolean).join(" "), t("files_n", study.files), study.id.slice(0, 6)].filter(Boolean).join(" · ");
}

function seriesText(series) {
  const parts = [series.own_number ?? series.number, [series.modality, series.body_part, series.view].filter(Boolean).join(" ")];
  return [...parts, t("images_n", series.images), series.is_localizer ? t("localizer") : ""].filter((part) => part !== "").join(" · ");
}
