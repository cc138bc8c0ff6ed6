// Images for the next question or draft: files of this computer, and slices of the viewer.
import { el } from "./dom.js";
import { t } from "./texts.js";

const PREVIEWS = new Set(["image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"]);
const MAX_ITEMS = 64;

const read = (file) => new Promise((done, fail) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => fail(new Error(t("unreadable")));
  reader.readAsDataURL(file);
});

// A preview; a file that the browser cannot show has only its name.
export function thumbnail(item) {
  const name = el("span", { class: "name" }, item.label);
  return item.preview ? [el("img", { src: item.preview, alt: item.label }), name] : [el("span", { class: "blank" }, "DICOM"), name];
}

export class Tray {
  constructor({ changed = () => {} } = {}) {
    this.items = [];
    this.changed = changed;
    this.list = el("ul", { class: "tray", label: "images" });
    this.input = el("input", { type: "file", multiple: true, class: "unseen", tabindex: "-1", label: "add_images" });
    this.input.addEventListener("change", async () => { await this.files([...this.input.files]); this.input.value = ""; });
    this.button = el("button", { type: "button", word: "add_images", onclick: () => this.input.click() });
    this.draw();
  }

  // Files dropped on `target`, or pasted while it has the focus.
  watch(target) {
    const over = (event, on) => { event.preventDefault(); target.classList.toggle("over", on); };
    target.addEventListener("dragover", (event) => over(event, true));
    target.addEventListener("dragleave", (event) => over(event, false));
    target.addEventListener("drop", (event) => { over(event, false); this.files([...event.dataTransfer.files]); });
    target.addEventListener("paste", (event) => {
      const pasted = [...event.clipboardData.files];
      if (pasted.length) { event.preventDefault(); this.files(pasted); }
    });
  }

  async files(found) {
    for (const file of found) {
      const data = await read(file);
      this.add({ label: file.name, data, preview: PREVIEWS.has(file.type) ? data : null });
    }
  }

  // { label, data: data URI, preview: URL or null, ref: { study, series, index, window } of a slice }
  add(item) {
    if (this.items.length < MAX_ITEMS) this.items.push(item);
    this.draw();
  }

  take() {
    const items = this.items;
    this.items = [];
    this.draw();
    return items;
  }

  put(items) {
    this.items = items;
    this.draw();
  }

  draw() {
    const away = (item) => { this.items = this.items.filter((one) => one !== item); this.draw(); };
    this.list.replaceChildren(...this.items.map((item, at) => el("li", {}, el("b", {}, String(at + 1)), ...thumbnail(item),
      el("button", { type: "button", class: "small", label: "remove", onclick: () => away(item) }, "×"))));
    this.list.hidden = !this.items.length;
    this.changed(this);
  }
}
