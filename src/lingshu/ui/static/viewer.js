// Studies of the server's folder: one, or a prior next to the current one, with scrolling and windows.
import { json } from "./api.js";
import { el, showError } from "./dom.js";
import { Pane } from "./pane.js";
import { t } from "./texts.js";

export function viewer(about, { chat, report }) {
  if (!about.views.studies) return { view: el("p", { class: "empty", word: "no_studies" }) };
  let studies = null;
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const count = el("p", { class: "faint" });
  const linked = el("input", { type: "checkbox", checked: true });
  const comparing = el("input", { type: "checkbox", onchange: compare });
  const current = new Pane(about, { named: "current", moved: (by) => follow(prior, current, by), opened: () => comparing.checked && pair() });
  const prior = new Pane(about, { named: "prior", moved: (by) => follow(current, prior, by) });
  for (const pane of [current, prior]) {
    const give = async (view) => { const item = await pane.item(); if (item) view.add(item); };
    pane.tools.append(el("button", { type: "button", word: "ask_about", onclick: () => give(chat) }),
      el("button", { type: "button", word: "add_to_draft", onclick: () => give(report) }));
  }
  prior.view.hidden = true;
  const panes = el("div", { class: "panes one" }, prior.view, current.view);
  const link = el("label", { class: "check", hidden: true }, linked, el("span", { word: "link" }));
  const refresh = el("button", { type: "button", word: "refresh", onclick: load });
  const view = el("div", { class: "viewer" },
    el("div", { class: "row" }, el("label", { class: "check" }, comparing, el("span", { word: "compare" })), link, el("span", { class: "gap" }), count, refresh),
    wrong, panes, el("p", { class: "faint keys", word: "viewer_keys" }));

  // Both scroll by the same fraction of their length.
  function follow(other, one, by) {
    if (comparing.checked && linked.checked && other.got) other.go(other.index + Math.round((by * other.length) / one.length) || other.index, false);
  }

  function compare() {
    prior.view.hidden = link.hidden = !comparing.checked;
    panes.classList.toggle("one", !comparing.checked);
    if (comparing.checked && !prior.got) pair();
  }

  // The previous study of the patient, else none: a later one, one without a date, or another patient's is never chosen automatically.
  function pair() {
    const now = studies?.find((one) => one.id === current.study.value);
    const earlier = studies?.filter((one) => one.patient && one.patient === now?.patient && one.rank && one.rank < now.rank).pop();
    if (studies) prior.fill(studies, earlier?.id);
  }

  async function load() {
    refresh.disabled = true;
    count.textContent = t("searching");
    try {
      const found = await json("/page/api/studies");
      studies = found.studies;
      showError(wrong, null);
      words(found);
      // The latest study of the first patient that has several, else the first one.
      const first = studies.find((one) => one.total > 1 && one.rank === one.total) ?? studies[0];
      if (first) current.fill(studies, first.id);
    } catch (error) { showError(wrong, error); count.textContent = ""; }
    refresh.disabled = false;
  }

  let last = null;
  function words(found) {
    last = found;
    count.textContent = t(found.is_complete && !found.more ? "studies_n" : "studies_more", found.studies.length);
  }

  document.addEventListener("languagechange", () => { current.relabel(); prior.relabel(); if (last) words(last); });
  return { view, shown: () => { if (studies === null) load(); } };
}
