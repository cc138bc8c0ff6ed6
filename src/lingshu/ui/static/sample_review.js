// One reviewer's way through a queue, sample by sample; a verdict counts once the server has stored it.
import { request, requestJson } from "./api.js";
import { el, field, options, showError } from "./dom.js";
import { t } from "./texts.js";

const REASONS = ["absent", "missed", "side", "size", "unanswerable", "leak", "wording", "unsafe"];

export function sampleReview({ queue, reviewer, state, onVerdict }) {
  const rows = state.rows;
  let ownVerdicts = state.own_verdicts;
  let index = Math.max(0, rows.findIndex((row) => !ownVerdicts[row.id]));
  let mode = null; // "edit" or "reject" while its text is written
  let busy = false;
  let urls = [];
  const errorLine = el("p", { class: "error", role: "alert", hidden: true });
  const count = el("span", { class: "count" });
  const bar = el("progress", { max: String(Math.max(1, rows.length)), label: "progress" });
  const undoButton = el("button", { type: "button", text: "undo", onclick: () => undoLast() });
  const previousButton = el("button", { type: "button", text: "previous", onclick: () => move(-1) });
  const nextButton = el("button", { type: "button", text: "next", onclick: () => move(1) });
  const card = el("div", { class: "sample" });
  const view = el("div", { class: "sample-review", tabindex: "-1", onkeydown: onKeyDown },
    el("div", { class: "row" }, bar, count, el("span", { class: "spacer" }), undoButton, previousButton, nextButton), errorLine, card, el("p", { class: "muted shortcuts", text: "review_keys" }));

  const verdictOf = (row) => ownVerdicts[row.id];

  function draw() {
    const row = rows[index];
    const judged = rows.filter(verdictOf).length;
    bar.value = judged;
    count.textContent = t("done_of", judged, rows.length);
    undoButton.disabled = !Object.keys(ownVerdicts).length;
    previousButton.disabled = index <= 0;
    nextButton.disabled = index >= rows.length - 1;
    for (const url of urls) URL.revokeObjectURL(url);
    urls = [];
    if (!row) { card.replaceChildren(el("p", { class: "empty", text: "queue_empty" })); return; }
    const images = el("div", { class: "images" });
    const texts = row.texts.map((text, side) => el("div", { class: "text" },
      row.texts.length > 1 ? el("h4", {}, t("text_n", "AB"[side])) : null, el("p", { class: "verbatim" }, text)));
    card.replaceChildren(
      el("header", {}, el("span", { class: "kind" }, row.kind), ` ${index + 1} / ${rows.length}`, row.modality ? ` · ${row.modality}` : ""),
      el("div", { class: "columns" }, images, el("div", { class: "content" }, el("p", { class: "question" }, row.question),
        el("div", { class: row.texts.length > 1 ? "texts paired" : "texts" }, ...texts), verdictLine(row), mode ? form(row) : actions(row))));
    showImages(row, images);
  }

  async function showImages(row, container) {
    for (let image = 0; image < row.images; image += 1) {
      const params = new URLSearchParams({ queue, id: row.id, image: String(image) });
      try {
        const blob = await (await request(`/page/api/review/image?${params}`)).blob();
        if (rows[index] !== row) return;
        const url = URL.createObjectURL(blob);
        urls.push(url);
        container.append(el("img", { src: url, alt: t("image_n", image + 1) }));
      } catch (error) { container.append(el("p", { class: "error" }, error.message)); }
    }
  }

  // This reviewer's verdict so far.
  function verdictLine(row) {
    const verdict = verdictOf(row);
    if (!verdict) return null;
    const side = verdict.side ? ` ${verdict.side.toUpperCase()}` : "";
    return el("p", { class: "verdict" }, el("b", {}, t(`did_${verdict.verdict}`) + side), verdict.text || verdict.reason ? `: ${verdict.text ?? verdict.reason}` : "");
  }

  function actions(row) {
    const choices = row.texts.length > 1
      ? ["a", "b"].map((side) => el("button", { type: "button", class: "main", onclick: () => send({ verdict: "prefer", side }) }, t("prefer_n", side.toUpperCase())))
      : [el("button", { type: "button", class: "main", text: "accept", onclick: () => send({ verdict: "accept" }) })];
    return el("div", { class: "row actions" }, ...choices, el("button", { type: "button", text: "edit", onclick: () => setMode("edit") }),
      el("button", { type: "button", text: row.texts.length > 1 ? "reject_both" : "reject", onclick: () => setMode("reject") }));
  }

  function form(row) {
    const verdict = verdictOf(row);
    const cancel = el("button", { type: "button", text: "cancel", onclick: () => setMode(null) });
    const buttons = el("div", { class: "row" }, cancel, el("button", { class: "main", text: mode === "edit" ? "save_edit" : "reject" }));
    const textarea = el("textarea", { rows: mode === "edit" ? "6" : "2", id: "verdict-text", required: true });
    const submit = (event) => { event.preventDefault(); send(mode === "edit" ? { verdict: "edit", text: textarea.value } : { verdict: "reject", reason: textarea.value }); };
    setTimeout(() => textarea.focus());
    if (mode === "edit") {
      textarea.value = verdict?.text ?? row.texts[0];
      const startFrom = row.texts.length < 2 ? null : el("div", { class: "row" }, ...row.texts.map((text, side) =>
        el("button", { type: "button", onclick: () => { textarea.value = text; textarea.focus(); } }, t("from_n", "AB"[side]))));
      return el("form", { class: "verdict-form", onsubmit: submit }, startFrom, field("edited_text", textarea), buttons);
    }
    textarea.value = verdict?.reason ?? "";
    const usualReason = el("select", { id: "usual-reason", onchange: () => { if (usualReason.value) textarea.value = usualReason.value; textarea.focus(); } });
    // Reasons are stored in English in either language: curation counts equal texts.
    options(usualReason, [["", t("choose_reason")], ...REASONS.map((name) => [t.en(`reason_${name}`), t(`reason_${name}`)])], "");
    return el("form", { class: "verdict-form", onsubmit: submit }, field("usual_reasons", usualReason), field("reason", textarea), buttons);
  }

  function setMode(newMode) {
    mode = newMode;
    draw();
    if (!mode) view.focus({ preventScroll: true });
  }

  // Stores a change on the server; `nextIndex` selects the sample to show after it, from the response.
  async function post(path, body, nextIndex) {
    if (busy) return;
    busy = true;
    try {
      const response = await requestJson(path, { body: { queue, reviewer, ...body } });
      showError(errorLine, null);
      onVerdict(response);
      index = nextIndex(response);
      setMode(null);
    } catch (error) { showError(errorLine, error); }
    busy = false;
  }

  const send = (verdict) => post("/page/api/review/verdicts", { id: rows[index].id, ...verdict }, (response) => {
    ownVerdicts = { ...ownVerdicts, ...response.own_verdicts };
    const following = [...rows.keys()].map((step) => (index + 1 + step) % rows.length);
    return following.find((other) => !ownVerdicts[rows[other].id]) ?? index;
  });

  const undoLast = () => post("/page/api/review/undo", {}, (response) => {
    ownVerdicts = response.own_verdicts;
    return Math.max(0, rows.findIndex((row) => row.id === response.undone));
  });

  function move(delta) {
    if (index + delta < 0 || index + delta >= rows.length) return;
    index += delta;
    mode = null;
    draw();
  }

  function onKeyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && mode) { setMode(null); return; }
    if (mode || /^(TEXTAREA|INPUT|SELECT)$/.test(event.target.tagName)) return;
    const isPair = rows[index]?.texts.length > 1;
    const keys = { j: () => move(1), ArrowRight: () => move(1), k: () => move(-1), ArrowLeft: () => move(-1), u: undoLast };
    if (rows[index]) {
      keys.e = () => setMode("edit");
      keys.r = () => setMode("reject");
      if (!isPair) keys.a = () => send({ verdict: "accept" });
      else { keys[1] = () => send({ verdict: "prefer", side: "a" }); keys[2] = () => send({ verdict: "prefer", side: "b" }); }
    }
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (action) { event.preventDefault(); action(); }
  }

  // Skipped once it is replaced: every start of a review creates another view.
  document.addEventListener("languagechange", () => { if (view.isConnected) draw(); });
  draw();
  return view;
}
