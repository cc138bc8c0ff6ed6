// The page: its tabs, its language, and the header with the model, its digest and the notice.
import { json } from "./api.js";
import { el, translatePage } from "./dom.js";
import { chat } from "./chat.js";
import { draft } from "./draft.js";
import { review } from "./review.js";
import { runs } from "./runs.js";
import { setLanguage, currentLanguage, t } from "./texts.js";
import { viewer } from "./viewer.js";

const find = (id) => document.getElementById(id);
const ORDER = ["chat", "viewer", "draft", "runs", "review"];
const views = {};
const tabs = {};

function provenance(about) {
  const digest = el("code", { title: about.digest }, about.digest.slice(0, 12));
  // A long name is cut on the screen; the digest and the notice never are.
  const model = el("span", { class: "model" }, el("span", { title: about.model }, about.model), " ", digest);
  find("provenance").replaceChildren(model, el("strong", { word: "notice" }));
}

export function show(name) {
  for (const one of ORDER) {
    views[one].hidden = one !== name;
    tabs[one].setAttribute("aria-selected", String(one === name));
    tabs[one].tabIndex = one === name ? 0 : -1;
  }
  document.title = `${t(name)} · lingshu`;
  views[name].dispatchEvent(new Event("shown"));
}

function step(event) {
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!move) return;
  const at = ORDER.findIndex((name) => tabs[name] === document.activeElement);
  const next = ORDER[(at + move + ORDER.length) % ORDER.length];
  show(next);
  tabs[next].focus();
}

function languages() {
  const choose = (event) => { setLanguage(event.target.value); translatePage(); document.dispatchEvent(new Event("languagechange")); };
  const select = el("select", { label: "language", onchange: choose },
    ...[["en", "English"], ["zh", "中文"]].map(([value, name]) => el("option", { value, selected: value === currentLanguage() }, name)));
  find("tools").replaceChildren(select);
}

async function start() {
  document.documentElement.lang = currentLanguage();
  languages();
  let about;
  try {
    about = await json("/page/api/about");
  } catch (error) {
    find("views").replaceChildren(el("p", { class: "wrong", role: "alert" }, error.message));
    return;
  }
  provenance(about);
  const chatView = chat(about, () => show("chat"));
  const report = draft(about, () => show("draft"));
  const built = { chat: chatView, viewer: viewer(about, { chat: chatView, report }), draft: report, runs: runs(about), review: review(about) };
  for (const name of ORDER) {
    views[name] = el("section", { id: `view-${name}`, role: "tabpanel", "aria-labelledby": `tab-${name}`, hidden: true }, built[name].view);
    views[name].addEventListener("shown", () => built[name].shown?.());
    tabs[name] = el("button", { id: `tab-${name}`, role: "tab", "aria-controls": `view-${name}`, word: name, onclick: () => show(name) });
  }
  find("tabs").setAttribute("role", "tablist");
  find("tabs").addEventListener("keydown", step);
  find("tabs").replaceChildren(...ORDER.map((name) => tabs[name]));
  find("views").replaceChildren(...ORDER.map((name) => views[name]));
  document.addEventListener("languagechange", () => { document.title = `${t(ORDER.find((name) => !views[name].hidden))} · lingshu`; });
  show("chat");
}

start();
