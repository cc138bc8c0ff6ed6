// A report draft from chosen images, edited by a person, exported; always preliminary and unverified.
import { json, save } from "./api.js";
import { el, field, showError } from "./dom.js";
import { Tray } from "./tray.js";
import { currentLanguage, t } from "./texts.js";

const FILES = { md: "report.md", fhir: "report.fhir.json", sr: "report.dcm" };

export function draft(about, front) {
  let current = null;
  let running = null;
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const language = el("select", {}, el("option", { value: "en" }, "English"), el("option", { value: "zh" }, "中文"));
  language.value = currentLanguage();
  const go = el("button", { type: "button", class: "main", word: "make_draft", onclick: make });
  const stop = el("button", { type: "button", word: "stop", hidden: true, onclick: () => running?.abort() });
  const tray = new Tray({ changed: (one) => { go.disabled = !one.items.length || running !== null; } });
  const findings = el("textarea", { rows: "7", oninput: state, id: "findings" });
  const impression = el("textarea", { rows: "4", oninput: state, id: "impression" });
  const badge = el("p", { class: "badge", id: "state" });
  const lines = el("ul", { class: "faint" });
  const patient = el("input", { type: "checkbox" });
  const restoreButton = el("button", { type: "button", word: "restore", onclick: restore });
  const modelText = el("pre", { class: "said" });
  const exports = Object.fromEntries(["md", "fhir", "sr"].map((form) =>
    [form, el("button", { type: "button", id: `export-${form}`, word: `export_${form}`, onclick: () => write(form) })]));
  const unnamed = el("p", { class: "faint", word: "no_sr" });
  const report = el("div", { class: "report", hidden: true }, badge, field("findings", findings), field("impression", impression),
    el("div", { class: "row" }, restoreButton, el("span", { class: "gap" }), ...Object.values(exports)),
    el("label", { class: "check" }, patient, el("span", { word: "name_patient" })), unnamed, lines,
    el("details", {}, el("summary", { word: "model_text" }), modelText));
  const hint = el("p", { class: "empty", word: "draft_empty" });
  const top = el("div", { class: "composer" }, tray.list, tray.input,
    el("div", { class: "row" }, tray.button, field("draft_language", language), el("span", { class: "gap" }), stop, go), wrong);
  tray.watch(top);

  async function make() {
    running = new AbortController();
    go.disabled = true;
    stop.hidden = false;
    go.classList.add("waiting");
    showError(wrong, null);
    const images = tray.items.map((item) => item.ref ?? { data: item.data });
    try {
      current = await json("/page/api/drafts", { body: { images, language: language.value }, signal: running.signal });
      restore();
      modelText.textContent = current.reply;
      lines.replaceChildren(...current.provenance.slice(1).map((line) => el("li", {}, line)));
      hint.hidden = true;
      report.hidden = false;
      patient.checked = false;
      exports.sr.disabled = patient.disabled = !current.named;
      unnamed.hidden = current.named;
      findings.focus();
    } catch (error) { if (error.name !== "AbortError") showError(wrong, error); }
    running = null;
    stop.hidden = true;
    go.classList.remove("waiting");
    tray.changed(tray);
  }

  function restore() {
    findings.value = current.findings;
    impression.value = current.impression;
    state();
  }

  function state() {
    const edited = findings.value.trim() !== current.findings || impression.value.trim() !== current.impression;
    badge.dataset.word = edited ? "edited" : "unedited";
    badge.textContent = t(badge.dataset.word);
    badge.classList.toggle("changed", edited);
    restoreButton.disabled = !edited;
    const empty = !findings.value.trim() && !impression.value.trim();
    for (const [form, button] of Object.entries(exports)) button.disabled = empty || (form === "sr" && !current.named);
  }

  async function write(form) {
    showError(wrong, null);
    const body = { id: current.id, findings: findings.value, impression: impression.value, file_format: form, patient: patient.checked };
    try { await save("/page/api/drafts/export", body, FILES[form]); } catch (error) { showError(wrong, error); }
  }

  const view = el("div", { class: "draft" }, top, hint, report);
  return { view, add: (item) => { tray.add(item); front(); go.focus(); } };
}
