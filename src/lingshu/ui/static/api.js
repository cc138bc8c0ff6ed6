// Requests to the server. The key is requested once, when the server needs one, and kept only in this variable.
import { el, showError } from "./dom.js";
import { t } from "./texts.js";

let key = null;
let dialogOpen = null;

export class ApiError extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

// The response to a request, with its status checked. `body` is sent as JSON.
export async function ask(path, { body, signal } = {}) {
  for (;;) {
    const usedKey = key;
    const headers = usedKey ? { Authorization: `Bearer ${usedKey}` } : {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const options = { method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store", redirect: "error" };
    let response;
    try {
      response = await fetch(path, body === undefined ? options : { ...options, body: JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(t("unreachable"), 0);
    }
    if (response.status === 401) {
      // Another request may have obtained a key meanwhile.
      if (key === usedKey) await askForKey(usedKey !== null);
      continue;
    }
    if (!response.ok) throw new ApiError(await reason(response), response.status);
    return response;
  }
}

export const json = async (path, options) => (await ask(path, options)).json();

async function reason(response) {
  const found = await response.json().catch(() => null);
  return found?.error?.message ?? `${response.status}`;
}

function askForKey(wasRefused) {
  dialogOpen ??= new Promise((done) => {
    const input = el("input", { type: "password", autocomplete: "off", required: true, label: "key" });
    const wrong = el("p", { class: "wrong" });
    const submit = (event) => { event.preventDefault(); key = input.value.trim(); dialog.close(); };
    const form = el("form", { onsubmit: submit }, el("h2", { word: "key" }), el("p", { word: "key_why" }), wrong,
      input, el("div", { class: "row" }, el("button", { class: "main", word: "proceed" })));
    const dialog = el("dialog", { oncancel: (event) => event.preventDefault() }, form);
    dialog.addEventListener("close", () => { dialog.remove(); dialogOpen = null; done(); });
    showError(wrong, wasRefused ? new Error(t("key_wrong")) : null);
    document.body.append(dialog);
    dialog.showModal();
  });
  return dialogOpen;
}

// Download a file that the server generates.
export async function save(path, body, name) {
  const response = await ask(path, { body });
  const url = URL.createObjectURL(await response.blob());
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
