// Asks the server. The key is asked for once, when the server wants one, and lies in this variable alone.
import { el, tell } from "./dom.js";
import { t } from "./words.js";

let key = null;
let asking = null;

export class Wrong extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

// The answer to a request, its status checked. `body` is sent as JSON.
export async function ask(path, { body, signal } = {}) {
  for (;;) {
    const used = key;
    const headers = used ? { Authorization: `Bearer ${used}` } : {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const options = { method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store", redirect: "error" };
    let answer;
    try {
      answer = await fetch(path, body === undefined ? options : { ...options, body: JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Wrong(t("unreachable"), 0);
    }
    if (answer.status === 401) {
      // Another request may have got a key meanwhile.
      if (key === used) await wanted(used !== null);
      continue;
    }
    if (!answer.ok) throw new Wrong(await reason(answer), answer.status);
    return answer;
  }
}

export const json = async (path, options) => (await ask(path, options)).json();

async function reason(answer) {
  const found = await answer.json().catch(() => null);
  return found?.error?.message ?? `${answer.status}`;
}

function wanted(refused) {
  asking ??= new Promise((done) => {
    const input = el("input", { type: "password", autocomplete: "off", required: true, label: "key" });
    const wrong = el("p", { class: "wrong" });
    const submit = (event) => { event.preventDefault(); key = input.value.trim(); dialog.close(); };
    const form = el("form", { onsubmit: submit }, el("h2", { word: "key" }), el("p", { word: "key_why" }), wrong,
      input, el("div", { class: "row" }, el("button", { class: "main", word: "go_on" })));
    const dialog = el("dialog", { oncancel: (event) => event.preventDefault() }, form);
    dialog.addEventListener("close", () => { dialog.remove(); asking = null; done(); });
    tell(wrong, refused ? new Error(t("key_wrong")) : null);
    document.body.append(dialog);
    dialog.showModal();
  });
  return asking;
}

// A file that the server made, handed to the person at the browser.
export async function save(path, body, name) {
  const answer = await ask(path, { body });
  const url = URL.createObjectURL(await answer.blob());
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
