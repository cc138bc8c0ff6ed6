// Studies of the server's folder: one, or a prior beside the current one, scrolled and windowed.
import { json } from "./api.js";
import { el, tell } from "./dom.js";
import { Pane } from "./pane.js";
import { t } from "./words.js";

export function viewer(about, { talk, report }) {
  if (!about.views.studies) return { view: el("p", { class: "empty", word: "no_studies" }) };
  let studies = null;
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const count = el("p", { class: "faint" });
  const linked = el("input", { type: "checkbox", checked: true });
  const beside = el("input", { type: "checkbox", onchange: compare });
  const current = new Pane(about, { named: "current", moved: (by) => follow(prior, current, by), opened: () => beside.checked && pair() });
  const prior = new Pane(about, { named: "prior", moved: (by) => follow(current, prior, by) });
  for (const pane of [current, prior]) {
    const give = async (place) => { const item = await pane.item(); if (item) place.add(item); };
    pane.tools.append(el("button", { type: "button", word: "ask_about", onclick: () => give(talk) }),
      el("button", { type: "button", word: "add_to_draft", onclick: () => give(report) }));
  }
  prior.view.hidden = true;
  const panes = el("div", { class: "panes one" }, prior.view, current.view);
  const link = el("label", { class: "check", hidden: true }, linked, el("span", { word: "link" }));
  const again = el("button", { type: "button", word: "look_again", onclick: load });
  const view = el("div", { class: "viewer" },
    el("div", { class: "row" }, el("label", { class: "check" }, beside, el("span", { word: "beside" })), link, el("span", { class: "gap" }), count, again),
    wrong, panes, el("p", { class: "faint keys", word: "viewer_keys" }));

  // Both scroll by the same share of their length.
  function follow(other, one, by) {
    if (beside.checked && linked.checked && other.got) other.go(other.place + Math.round((by * other.most) / one.most) || other.place, false);
  }

  function compare() {
    prior.view.hidden = link.hidden = !beside.checked;
    panes.classList.toggle("one", !beside.checked);
    if (beside.checked && !prior.got) pair();
  }

  // The study before the current one, else none: a later one, one without a date, or another patient's is never put there unasked.
  function pair() {
    const now = studies?.find((one) => one.id === current.study.value);
    const earlier = studies?.filter((one) => one.patient && one.patient === now?.patient && one.rank && one.rank < now.rank).pop();
    if (studies) prior.fill(studies, earlier?.id);
  }

  async function load() {
    again.disabled = true;
    count.textContent = t("looking");
    try {
      const found = await json("/page/api/studies");
      studies = found.studies;
      tell(wrong, null);
      words(found);
      // The latest study of the first patient that has several, else the first one.
      const first = studies.find((one) => one.total > 1 && one.rank === one.total) ?? studies[0];
      if (first) current.fill(studies, first.id);
    } catch (error) { tell(wrong, error); count.textContent = ""; }
    again.disabled = false;
  }

  let last = null;
  function words(found) {
    last = found;
    count.textContent = t(found.is_complete && !found.more ? "studies_n" : "studies_more", found.studies.length);
  }

  document.addEventListener("spoken", () => { current.relabel(); prior.relabel(); if (last) words(last); });
  return { view, shown: () => { if (studies === null) load(); } };
}
