// Makes elements. Text goes into text nodes, never into HTML: elements are created nowhere else.
import { t } from "./texts.js";

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "open", "type", "src"]);

// el("button", { class: "main", word: "send", onclick: send }, child, ...)
// `word` is the element's text, `label` its aria-label and `hint` its placeholder, each by its name in texts.js.
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "word" || name === "label" || name === "hint") { element.dataset[name] = value; applyTexts(element); }
    else if (PROPERTIES.has(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function applyTexts(element) {
  const { word, label, hint } = element.dataset;
  if (word) element.textContent = t(word);
  if (label) { element.setAttribute("aria-label", t(label)); element.title = t(label); }
  if (hint) element.placeholder = t(hint);
}

// Called when the language changes.
export function translatePage() {
  for (const element of document.querySelectorAll("[data-word], [data-label], [data-hint]")) applyTexts(element);
}

// An input with its label.
export function field(word, input, kind = "field") {
  return el("label", { class: kind }, el("span", { word }), input);
}

export function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
}

// Shows an error message, or hides the line.
export function showError(line, error) {
  line.textContent = error ? error.message : "";
  line.hidden = !error;
}
