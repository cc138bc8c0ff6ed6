// Requests to the server. The user is asked for a key once, if the server needs one; it is kept only in this variable.
import { el, showError } from "./dom.js";
import { t } from "./texts.js";

let key = null;
let keyDialog = null;

export class ApiError extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

// The response to a request, with its status checked. `body` is sent as JSON.
export async function request(path, { body, signal } = {}) {
  for (;;) {
    const usedKey = key;
    const headers = usedKey ? { Authorization: `Bearer ${usedKey}` } : {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const init = { method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store", redirect: "error" };
    let response;
    try {
      response = await fetch(path, body === undefined ? init : { ...init, body: JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(t("unreachable"), 0);
    }
    if (response.status === 401) {
      // Another request may have obtained a key meanwhile.
      if (key === usedKey) await promptForKey(usedKey !== null);
      continue;
    }
    if (!response.ok) throw new ApiError(await errorMessage(response), response.status);
    return response;
  }
}

export const requestJson = async (path, options) => (await request(path, options)).json();

async function errorMessage(response) {
  const body = await response.json().catch(() => null);
  return body?.error?.message ?? `${response.status}`;
}

function promptForKey(wasRefused) {
  keyDialog ??= new Promise((resolve) => {
    const input = el("input", { type: "password", autocomplete: "off", required: true, label: "key" });
    const errorLine = el("p", { class: "error" });
    const submit = (event) => { event.preventDefault(); key = input.value.trim(); dialog.close(); };
    const form = el("form", { onsubmit: submit }, el("h2", { text: "key" }), el("p", { text: "key_why" }), errorLine,
      input, el("div", { class: "row" }, el("button", { class: "main", text: "proceed" })));
    const dialog = el("dialog", { oncancel: (event) => event.preventDefault() }, form);
    dialog.addEventListener("close", () => { dialog.remove(); keyDialog = null; resolve(); });
    showError(errorLine, wasRefused ? new Error(t("key_wrong")) : null);
    document.body.append(dialog);
    dialog.showModal();
  });
  return keyDialog;
}

// Download a file that the server generates.
export async function save(path, body, name) {
  const response = await request(path, { body });
  const url = URL.createObjectURL(await response.blob());
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
