// Makes elements. Text goes into text nodes, never into HTML: this is the one place where elements come from.
import { t } from "./words.js";

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "open", "type", "src"]);

// el("button", { class: "main", word: "send", onclick: send }, child, ...)
// `word` is the element's text, `label` its aria-label and `hint` its placeholder, each by its name in words.js.
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "word" || name === "label" || name === "hint") { made.dataset[name] = value; name_it(made); }
    else if (PROPERTIES.has(name)) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function name_it(made) {
  const { word, label, hint } = made.dataset;
  if (word) made.textContent = t(word);
  if (label) { made.setAttribute("aria-label", t(label)); made.title = t(label); }
  if (hint) made.placeholder = t(hint);
}

// After another language was chosen.
export function rename() {
  for (const made of document.querySelectorAll("[data-word], [data-label], [data-hint]")) name_it(made);
}

// A field under its name.
export function field(word, input, kind = "field") {
  return el("label", { class: kind }, el("span", { word }), input);
}

export function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
}

// A line that says what went wrong, or nothing.
export function tell(place, error) {
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}
