// The page: its tabs, its language, and the header with the model, its digest and the notice.
import { requestJson } from "./api.js";
import { el, translatePage } from "./dom.js";
import { chat } from "./chat.js";
import { draft } from "./draft.js";
import { review } from "./review.js";
import { runs } from "./runs.js";
import { setLanguage, currentLanguage, t } from "./texts.js";
import { viewer } from "./viewer.js";

const byId = (id) => document.getElementById(id);
const VIEWS = ["chat", "viewer", "draft", "runs", "review"];
const views = {};
const tabs = {};

function showProvenance(server) {
  const digest = el("code", { title: server.digest }, server.digest.slice(0, 12));
  // A long name is truncated on the screen; the digest and the notice never are.
  const model = el("span", { class: "model" }, el("span", { title: server.model }, server.model), " ", digest);
  byId("provenance").replaceChildren(model, el("strong", { text: "notice" }));
}

export function show(name) {
  for (const view of VIEWS) {
    views[view].hidden = view !== name;
    tabs[view].setAttribute("aria-selected", String(view === name));
    tabs[view].tabIndex = view === name ? 0 : -1;
  }
  document.title = `${t(name)} · lingshu`;
  views[name].dispatchEvent(new Event("shown"));
}

function onTabKey(event) {
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!move) return;
  const index = VIEWS.findIndex((name) => tabs[name] === document.activeElement);
  const next = VIEWS[(index + move + VIEWS.length) % VIEWS.length];
  show(next);
  tabs[next].focus();
}

function addLanguagePicker() {
  const select = (event) => { setLanguage(event.target.value); translatePage(); document.dispatchEvent(new Event("languagechange")); };
  const picker = el("select", { label: "language", onchange: select },
    ...[["en", "English"], ["zh", "中文"]].map(([value, name]) => el("option", { value, selected: value === currentLanguage() }, name)));
  byId("tools").replaceChildren(picker);
}

async function start() {
  document.documentElement.lang = currentLanguage();
  addLanguagePicker();
  let server;
  try {
    server = await requestJson("/page/api/about");
  } catch (error) {
    byId("views").replaceChildren(el("p", { class: "error", role: "alert" }, error.message));
    return;
  }
  showProvenance(server);
  const chatView = chat(server, () => show("chat"));
  const report = draft(server, () => show("draft"));
  const built = { chat: chatView, viewer: viewer(server, { chat: chatView, report }), draft: report, runs: runs(server), review: review(server) };
  for (const name of VIEWS) {
    views[name] = el("section", { id: `view-${name}`, role: "tabpanel", "aria-labelledby": `tab-${name}`, hidden: true }, built[name].view);
    views[name].addEventListener("shown", () => built[name].shown?.());
    tabs[name] = el("button", { id: `tab-${name}`, role: "tab", "aria-controls": `view-${name}`, text: name, onclick: () => show(name) });
  }
  byId("tabs").setAttribute("role", "tablist");
  byId("tabs").addEventListener("keydown", onTabKey);
  byId("tabs").replaceChildren(...VIEWS.map((name) => tabs[name]));
  byId("views").replaceChildren(...VIEWS.map((name) => views[name]));
  document.addEventListener("languagechange", () => { document.title = `${t(VIEWS.find((name) => !views[name].hidden))} · lingshu`; });
  show("chat");
}

start();
