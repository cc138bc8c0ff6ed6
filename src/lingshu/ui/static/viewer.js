// Studies of the server's folder: one, or a prior next to the current one, with scrolling and windows.
import { requestJson } from "./api.js";
import { el, showError } from "./dom.js";
import { Pane } from "./pane.js";
import { t } from "./texts.js";

export function viewer(server, { chat, report }) {
  if (!server.views.studies) return { view: el("p", { class: "empty", text: "no_studies" }) };
  let studies = null;
  const errorLine = el("p", { class: "error", role: "alert", hidden: true });
  const count = el("p", { class: "muted" });
  const linked = el("input", { type: "checkbox", checked: true });
  const comparing = el("input", { type: "checkbox", onchange: compare });
  const current = new Pane(server, { title: "current", onScroll: (delta) => follow(prior, current, delta), onOpen: () => comparing.checked && openPrior() });
  const prior = new Pane(server, { title: "prior", onScroll: (delta) => follow(current, prior, delta) });
  for (const pane of [current, prior]) {
    const attach = async (view) => { const item = await pane.attachment(); if (item) view.add(item); };
    pane.tools.append(el("button", { type: "button", text: "ask_about", onclick: () => attach(chat) }),
      el("button", { type: "button", text: "add_to_draft", onclick: () => attach(report) }));
  }
  prior.view.hidden = true;
  const panes = el("div", { class: "panes single" }, prior.view, current.view);
  const linkLabel = el("label", { class: "check", hidden: true }, linked, el("span", { text: "link" }));
  const refresh = el("button", { type: "button", text: "refresh", onclick: load });
  const view = el("div", { class: "viewer" },
    el("div", { class: "row" }, el("label", { class: "check" }, comparing, el("span", { text: "compare" })), linkLabel, el("span", { class: "spacer" }), count, refresh),
    errorLine, panes, el("p", { class: "muted shortcuts", text: "viewer_keys" }));

  // Both scroll by the same fraction of their length.
  function follow(other, scrolled, delta) {
    if (comparing.checked && linked.checked && other.slice) other.scrollTo(other.index + Math.round((delta * other.length) / scrolled.length) || other.index, false);
  }

  function compare() {
    prior.view.hidden = linkLabel.hidden = !comparing.checked;
    panes.classList.toggle("single", !comparing.checked);
    if (comparing.checked && !prior.slice) openPrior();
  }

  // The previous study of the patient, else none: a later one, one without a date, or another patient's is never chosen automatically.
  function openPrior() {
    const shown = studies?.find((study) => study.id === current.studySelect.value);
    const earlier = studies?.filter((study) => study.patient && study.patient === shown?.patient && study.rank && study.rank < shown.rank).pop();
    if (studies) prior.setStudies(studies, earlier?.id);
  }

  async function load() {
    refresh.disabled = true;
    count.textContent = t("searching");
    try {
      const response = await requestJson("/page/api/studies");
      studies = response.studies;
      showError(errorLine, null);
      showCount(response);
      // The latest study of the first patient that has several, else the first study.
      const first = studies.find((study) => study.total > 1 && study.rank === study.total) ?? studies[0];
      if (first) current.setStudies(studies, first.id);
    } catch (error) { showError(errorLine, error); count.textContent = ""; }
    refresh.disabled = false;
  }

  let latest = null;
  function showCount(response) {
    latest = response;
    count.textContent = t(response.is_complete && !response.more ? "studies_n" : "studies_more", response.studies.length);
  }

  document.addEventListener("languagechange", () => { current.updateLabels(); prior.updateLabels(); if (latest) showCount(latest); });
  return { view, shown: () => { if (studies === null) load(); } };
}
