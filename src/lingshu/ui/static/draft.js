// A report draft from selected images, edited by a person and exported; always preliminary and unverified.
import { requestJson, save } from "./api.js";
import { el, field, showError } from "./dom.js";
import { Tray } from "./tray.js";
import { currentLanguage, t } from "./texts.js";

const FILE_NAMES = { md: "report.md", fhir: "report.fhir.json", sr: "report.dcm" };

export function draft(server, showView) {
  let current = null;
  let running = null;
  const errorLine = el("p", { class: "error", role: "alert", hidden: true });
  const language = el("select", {}, el("option", { value: "en" }, "English"), el("option", { value: "zh" }, "中文"));
  language.value = currentLanguage();
  const draftButton = el("button", { type: "button", class: "main", text: "make_draft", onclick: generate });
  const stop = el("button", { type: "button", text: "stop", hidden: true, onclick: () => running?.abort() });
  const tray = new Tray({ onChange: (tray) => { draftButton.disabled = !tray.items.length || running !== null; } });
  const findings = el("textarea", { rows: "7", oninput: updateState, id: "findings" });
  const impression = el("textarea", { rows: "4", oninput: updateState, id: "impression" });
  const badge = el("p", { class: "badge", id: "draft-status" });
  const provenance = el("ul", { class: "muted" });
  const patient = el("input", { type: "checkbox" });
  const restoreButton = el("button", { type: "button", text: "restore", onclick: restore });
  const modelText = el("pre", { class: "verbatim" });
  const exports = Object.fromEntries(["md", "fhir", "sr"].map((format) =>
    [format, el("button", { type: "button", id: `export-${format}`, text: `export_${format}`, onclick: () => exportDraft(format) })]));
  const noPatient = el("p", { class: "muted", text: "no_sr" });
  const report = el("div", { class: "report", hidden: true }, badge, field("findings", findings), field("impression", impression),
    el("div", { class: "row" }, restoreButton, el("span", { class: "spacer" }), ...Object.values(exports)),
    el("label", { class: "check" }, patient, el("span", { text: "name_patient" })), noPatient, provenance,
    el("details", {}, el("summary", { text: "model_text" }), modelText));
  const hint = el("p", { class: "empty", text: "draft_empty" });
  const composer = el("div", { class: "composer" }, tray.list, tray.input,
    el("div", { class: "row" }, tray.button, field("draft_language", language), el("span", { class: "spacer" }), stop, draftButton), errorLine);
  tray.acceptFiles(composer);

  async function generate() {
    running = new AbortController();
    draftButton.disabled = true;
    stop.hidden = false;
    draftButton.classList.add("waiting");
    showError(errorLine, null);
    const images = tray.items.map((item) => item.ref ?? { data: item.data });
    try {
      current = await requestJson("/page/api/drafts", { body: { images, language: language.value }, signal: running.signal });
      restore();
      modelText.textContent = current.reply;
      provenance.replaceChildren(...current.provenance.slice(1).map((line) => el("li", {}, line)));
      hint.hidden = true;
      report.hidden = false;
      patient.checked = false;
      exports.sr.disabled = patient.disabled = !current.named;
      noPatient.hidden = current.named;
      findings.focus();
    } catch (error) { if (error.name !== "AbortError") showError(errorLine, error); }
    running = null;
    stop.hidden = true;
    draftButton.classList.remove("waiting");
    tray.onChange(tray);
  }

  function restore() {
    findings.value = current.findings;
    impression.value = current.impression;
    updateState();
  }

  function updateState() {
    const edited = findings.value.trim() !== current.findings || impression.value.trim() !== current.impression;
    badge.dataset.text = edited ? "edited" : "unedited";
    badge.textContent = t(badge.dataset.text);
    badge.classList.toggle("edited", edited);
    restoreButton.disabled = !edited;
    const empty = !findings.value.trim() && !impression.value.trim();
    for (const [format, button] of Object.entries(exports)) button.disabled = empty || (format === "sr" && !current.named);
  }

  async function exportDraft(format) {
    showError(errorLine, null);
    const body = { id: current.id, findings: findings.value, impression: impression.value, file_format: format, patient: patient.checked };
    try { await save("/page/api/drafts/export", body, FILE_NAMES[format]); } catch (error) { showError(errorLine, error); }
  }

  const view = el("div", { class: "draft" }, composer, hint, report);
  return { view, add: (item) => { tray.add(item); showView(); draftButton.focus(); } };
}
