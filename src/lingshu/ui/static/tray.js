// Images for the next question or draft: local files, and slices of the viewer.
import { el } from "./dom.js";
import { t } from "./texts.js";

const PREVIEWS = new Set(["image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"]);
const MAX_ITEMS = 64;

const readDataUri = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(new Error(t("unreadable")));
  reader.readAsDataURL(file);
});

// A preview; a file that the browser cannot show has only its name.
export function thumbnail(item) {
  const name = el("span", { class: "name" }, item.label);
  return item.preview ? [el("img", { src: item.preview, alt: item.label }), name] : [el("span", { class: "no-preview" }, "DICOM"), name];
}

export class Tray {
  constructor({ onChange = () => {} } = {}) {
    this.items = [];
    this.onChange = onChange;
    this.list = el("ul", { class: "tray", label: "images" });
    this.input = el("input", { type: "file", multiple: true, class: "visually-hidden", tabindex: "-1", label: "add_images" });
    this.input.addEventListener("change", async () => { await this.addFiles([...this.input.files]); this.input.value = ""; });
    this.button = el("button", { type: "button", text: "add_images", onclick: () => this.input.click() });
    this.draw();
  }

  // Takes files dropped on `target`, or pasted while it has the focus.
  acceptFiles(target) {
    const highlight = (event, on) => { event.preventDefault(); target.classList.toggle("drop-target", on); };
    target.addEventListener("dragover", (event) => highlight(event, true));
    target.addEventListener("dragleave", (event) => highlight(event, false));
    target.addEventListener("drop", (event) => { highlight(event, false); this.addFiles([...event.dataTransfer.files]); });
    target.addEventListener("paste", (event) => {
      const pasted = [...event.clipboardData.files];
      if (pasted.length) { event.preventDefault(); this.addFiles(pasted); }
    });
  }

  async addFiles(files) {
    for (const file of files) {
      const data = await readDataUri(file);
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

  restore(items) {
    this.items = items;
    this.draw();
  }

  draw() {
    const remove = (item) => { this.items = this.items.filter((other) => other !== item); this.draw(); };
    this.list.replaceChildren(...this.items.map((item, index) => el("li", {}, el("b", {}, String(index + 1)), ...thumbnail(item),
      el("button", { type: "button", class: "small", label: "remove", onclick: () => remove(item) }, "×"))));
    this.list.hidden = !this.items.length;
    this.onChange(this);
  }
}
