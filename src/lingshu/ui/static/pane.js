// One pane of the viewer: a study, a series, a slice, and its window. The server renders; the pane requests one slice at a time.
import { ask, json } from "./api.js";
import { el, field, options, showError } from "./dom.js";
import { positionText, provenanceText, windowText } from "./provenance.js";
import { t } from "./texts.js";

const MAX_CACHED = 48; // slices held in the browser
const BY_PAGE = 10;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Pane {
  constructor(about, { moved = () => {}, opened = () => {}, named }) {
    this.presets = about.windows;
    this.moved = moved;
    this.opened = opened;
    this.studies = [];
    this.series = [];
    this.cached = new Map();
    this.window = "file";
    this.index = 1;
    this.study = el("select", { onchange: () => this.open(this.study.value) });
    this.number = el("select", { onchange: () => this.choose(Number(this.number.value)) });
    this.preset = el("select", { onchange: () => this.setWindow(this.preset.value) });
    this.slider = el("input", { type: "range", min: "1", max: "1", value: "1", label: "slice", oninput: () => this.go(Number(this.slider.value)) });
    this.image = el("img", { alt: "", draggable: "false", hidden: true });
    this.marks = { first: el("span", { class: "mark nw" }), position: el("span", { class: "mark sw" }), window: el("span", { class: "mark se" }) };
    this.wrong = el("p", { class: "wrong", role: "alert", hidden: true });
    this.screen = el("div", { class: "screen", tabindex: "0", role: "application", label: "screen" }, this.image, ...Object.values(this.marks));
    this.tools = el("div", { class: "row" });
    this.view = el("div", { class: "pane" }, el("h3", { word: named }),
      el("div", { class: "row pickers" }, field("study", this.study, "field wide"), field("series", this.number), field("window", this.preset)),
      this.screen, this.slider, this.wrong, this.tools);
    this.listen();
    new ResizeObserver(() => this.fit()).observe(this.screen);
    this.relabel();
  }

  relabel() {
    const names = Object.entries(this.presets).map(([name, [center, width]]) => [name, `${t(`window_${name}`)} ${center}/${width}`]);
    const own = /,/.test(this.window) ? [[this.window, t("window_requested")]] : [];
    options(this.preset, [["file", t("window_file")], ...(this.modality === "CT" ? names : []), ...own], this.window);
    if (this.series.length) options(this.number, this.series.map((one) => [String(one.number), seriesText(one)]), this.number.value);
    if (this.studies.length) options(this.study, this.choices(), this.study.value);
    if (this.provenance) this.caption();
  }

  get modality() { return this.series.find((one) => one.number === Number(this.number.value))?.modality; }
  get length() { return Number(this.slider.max); }

  fill(studies, chosen) {
    this.studies = studies;
    if (!chosen) this.close();
    options(this.study, this.choices(), chosen ?? "");
    if (chosen) this.open(chosen);
  }

  close() {
    this.forget();
    this.opening = null;
    this.series = [];
    this.slider.hidden = true;
    options(this.number, [], "");
  }

  // No study is selected before one is opened.
  choices() { return [...(this.opening ? [] : [["", "–"]]), ...this.studies.map((one) => [one.id, studyText(one)])]; }

  async open(study) {
    this.forget();
    this.opening = study;
    this.opened();
    try {
      const found = await json(`/page/api/study?study=${encodeURIComponent(study)}`);
      if (this.opening !== study) return;
      this.series = found.series;
      const usual = found.series.filter((one) => !one.is_localizer);
      const longest = (usual.length ? usual : found.series).reduce((a, b) => (b.images > a.images ? b : a));
      options(this.number, found.series.map((one) => [String(one.number), seriesText(one)]), String(longest.number));
      this.choose(longest.number);
    } catch (error) { showError(this.wrong, error); }
  }

  choose(number) {
    this.forget();
    const found = this.series.find((one) => one.number === number);
    this.window = "file";
    this.slider.max = String(found.images);
    this.slider.hidden = found.images < 2;
    this.relabel();
    this.go(Math.ceil(found.images / 2), false);
  }

  // A slice of the previous series must not arrive late, or appear under another series' name.
  forget() {
    this.flight?.abort();
    this.flight = null;
    this.blank();
    for (const { url } of this.cached.values()) URL.revokeObjectURL(url);
    this.cached.clear();
    showError(this.wrong, null);
  }

  blank() {
    this.got = this.provenance = null;
    this.image.hidden = true;
    for (const mark of Object.values(this.marks)) mark.textContent = "";
    delete this.screen.dataset.shown;
  }

  go(index, notify = true) {
    const next = clamp(Math.round(index), 1, this.length);
    const by = next - this.index;
    this.index = next;
    this.slider.value = String(next);
    this.draw();
    if (notify && by) this.moved(by);
  }

  setWindow(window) {
    this.window = window;
    this.relabel();
    this.draw();
  }

  // By how much of the modality's units center and width change; a window without numbers begins at the usual ones.
  shift(center, width) {
    const [c, w] = this.numbers();
    const wider = clamp(w + width, 1, 99999), higher = clamp(c + center, -99999, 99999);
    this.setWindow(`${higher.toFixed(1)},${wider.toFixed(1)}`);
  }

  numbers() {
    const requested = /^(-?[\d.]+),([\d.]+)$/.exec(this.window);
    if (requested) return [Number(requested[1]), Number(requested[2])];
    if (this.provenance?.center !== undefined) return [this.provenance.center, this.provenance.width];
    return this.presets[this.window] ?? (this.modality === "CT" ? [40, 400] : [2048, 4096]);
  }

  key(index = this.index) {
    return `study=${encodeURIComponent(this.study.value)}&series=${this.number.value}&index=${index}&window=${encodeURIComponent(this.window)}`;
  }

  // One request at a time: its result is shown, and then only the latest requested slice is fetched.
  async draw() {
    if (this.flight) return;
    const held = this.cached.get(this.key());
    if (held) { this.put(held); return; }
    const key = this.key(), flight = new AbortController();
    this.flight = flight;
    this.screen.setAttribute("aria-busy", "true");
    try {
      const answer = await ask(`/page/api/slice?${key}`, { signal: flight.signal });
      const blob = await answer.blob();
      if (this.flight !== flight) return;
      const got = { url: URL.createObjectURL(blob), blob, provenance: JSON.parse(answer.headers.get("X-Lingshu-Image-Provenance")), key };
      this.keep(key, got);
      await this.put(got);
    } catch (error) {
      if (error.name === "AbortError" || this.flight !== flight) return;
      this.blank();
      showError(this.wrong, error);
    }
    this.flight = null;
    this.screen.removeAttribute("aria-busy");
    if (key !== this.key()) this.draw();
  }

  keep(key, got) {
    this.cached.set(key, got);
    if (this.cached.size <= MAX_CACHED) return;
    const [oldest, { url }] = this.cached.entries().next().value;
    this.cached.delete(oldest);
    URL.revokeObjectURL(url);
  }

  async put(got) {
    showError(this.wrong, null);
    this.image.src = got.url;
    await this.image.decode().catch(() => {});
    // A newer slice may have arrived meanwhile: a caption must match its pixels.
    if (this.image.src !== got.url) return;
    this.got = got;
    this.provenance = got.provenance;
    this.image.hidden = false;
    this.fit();
    this.caption();
  }

  // As large as the screen allows, in the proportions of the body: pixels may not be square.
  fit() {
    if (!this.provenance) return;
    const [high, wide] = this.provenance.spacing ?? [1, 1];
    const ratio = (this.provenance.columns * wide) / (this.provenance.rows * high);
    this.image.style.aspectRatio = String(ratio);
    this.image.classList.toggle("tall", ratio < this.screen.clientWidth / this.screen.clientHeight);
  }

  caption() {
    const provenance = this.provenance;
    this.image.alt = provenanceText(provenance);
    this.marks.first.textContent = [provenance.modality, provenance.body_part, provenance.view, provenance.laterality].filter(Boolean).join(" ");
    this.marks.position.textContent = positionText(provenance);
    this.marks.window.textContent = windowText(provenance);
    this.screen.dataset.shown = this.got.key;
  }

  // The slice as it is shown, for a question or a draft.
  async item() {
    if (!this.got) return null;
    const got = this.got;
    const data = await new Promise((done) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.readAsDataURL(got.blob);
    });
    const requested = new URLSearchParams(got.key);
    const ref = { study: requested.get("study"), series: Number(requested.get("series")), index: Number(requested.get("index")), window: requested.get("window") };
    return { label: [got.provenance.modality, positionText(got.provenance), windowText(got.provenance)].filter(Boolean).join(", "), data, preview: data, ref };
  }

  listen() {
    let from = null, turned = 0;
    this.screen.addEventListener("wheel", (event) => {
      event.preventDefault();
      turned += event.deltaMode ? event.deltaY * 40 : event.deltaY;
      const by = Math.trunc(turned / 40);
      turned -= by * 40;
      if (by) this.go(this.index + clamp(by, -3, 3));
    }, { passive: false });
    this.screen.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.screen.setPointerCapture(event.pointerId);
      from = [event.clientX, event.clientY, ...this.numbers()];
    });
    this.screen.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [x, y, center, width] = from;
      // Dragging across the image doubles the width: precise for narrow windows, fast for wide ones.
      const unit = (2 * Math.max(width, 40)) / this.screen.clientWidth;
      const [c, w] = this.numbers();
      this.shift(center + (event.clientY - y) * unit * 0.5 - c, width + (event.clientX - x) * unit - w);
    });
    for (const end of ["pointerup", "pointercancel"]) this.screen.addEventListener(end, () => { from = null; });
    this.screen.addEventListener("keydown", (event) => this.pressed(event));
  }

  pressed(event) {
    const [, width] = this.numbers(), step = Math.max(1, width / 20);
    const names = ["file", ...(this.modality === "CT" ? Object.keys(this.presets) : [])];
    const by = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -BY_PAGE, PageDown: BY_PAGE }[event.key];
    const shifts = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey && shifts) this.shift(...shifts);
    else if (by) this.go(this.index + by);
    else if (event.key === "Home") this.go(1);
    else if (event.key === "End") this.go(this.length);
    else if (/^[0-9]$/.test(event.key) && names[Number(event.key)]) this.setWindow(names[Number(event.key)]);
    else return;
    event.preventDefault();
  }
}

export function studyText(one) {
  const order = one.total > 1 && one.rank ? t("study_of", one.rank, one.total) : "";
  const patient = one.patient ? t("patient_n", one.patient.slice(0, 6)) : "";
  return [patient, order, [one.modality, one.body_part].filter(Boolean).join(" "), t("files_n", one.files), one.id.slice(0, 6)].filter(Boolean).join(" · ");
}

function seriesText(one) {
  const parts = [one.own_number ?? one.number, [one.modality, one.body_part, one.view].filter(Boolean).join(" ")];
  return [...parts, t("images_n", one.images), one.is_localizer ? t("localizer") : ""].filter((part) => part !== "").join(" · ");
}
