// One reviewer's progress through a queue: a sample, its verdict, the next one; a verdict counts once the server has written it.
import { ask, json } from "./api.js";
import { el, field, options, showError } from "./dom.js";
import { t } from "./texts.js";

const REASONS = ["absent", "missed", "side", "size", "unanswerable", "leak", "wording", "unsafe"];

export function judging({ queue, reviewer, state, onVerdict }) {
  const rows = state.rows;
  let ownVerdicts = state.own_verdicts;
  let at = Math.max(0, rows.findIndex((row) => !ownVerdicts[row.id]));
  let mode = null; // "edit" or "reject" while its words are written
  let busy = false;
  let urls = [];
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const done = el("span", { class: "count" });
  const bar = el("progress", { max: String(Math.max(1, rows.length)), label: "progress" });
  const undo = el("button", { type: "button", word: "undo", onclick: takeBack });
  const before = el("button", { type: "button", word: "previous", onclick: () => move(-1) });
  const after = el("button", { type: "button", word: "next", onclick: () => move(1) });
  const card = el("div", { class: "sample" });
  const view = el("div", { class: "judging", tabindex: "-1", onkeydown: pressed },
    el("div", { class: "row" }, bar, done, el("span", { class: "gap" }), undo, before, after), wrong, card, el("p", { class: "faint keys", word: "review_keys" }));

  const verdict = (row) => ownVerdicts[row.id];

  function draw() {
    const row = rows[at];
    const judged = rows.filter(verdict).length;
    bar.value = judged;
    done.textContent = t("done_of", judged, rows.length);
    undo.disabled = !Object.keys(ownVerdicts).length;
    before.disabled = at <= 0;
    after.disabled = at >= rows.length - 1;
    for (const url of urls) URL.revokeObjectURL(url);
    urls = [];
    if (!row) { card.replaceChildren(el("p", { class: "empty", word: "queue_empty" })); return; }
    const pictures = el("div", { class: "pictures" });
    const texts = row.texts.map((text, side) => el("div", { class: "text" },
      row.texts.length > 1 ? el("h4", {}, t("text_n", "AB"[side])) : null, el("p", { class: "said" }, text)));
    card.replaceChildren(
      el("header", {}, el("span", { class: "kind" }, row.kind), ` ${at + 1} / ${rows.length}`, row.modality ? ` · ${row.modality}` : ""),
      el("div", { class: "body" }, pictures, el("div", { class: "words" }, el("p", { class: "question" }, row.question),
        el("div", { class: row.texts.length > 1 ? "texts both" : "texts" }, ...texts), given(row), mode ? form(row) : actions(row))));
    show(row, pictures);
  }

  async function show(row, place) {
    for (let image = 0; image < row.images; image += 1) {
      const params = new URLSearchParams({ queue, id: row.id, image: String(image) });
      try {
        const blob = await (await ask(`/page/api/review/image?${params}`)).blob();
        if (rows[at] !== row) return;
        const url = URL.createObjectURL(blob);
        urls.push(url);
        place.append(el("img", { src: url, alt: t("image_n", image + 1) }));
      } catch (error) { place.append(el("p", { class: "wrong" }, error.message)); }
    }
  }

  // This reviewer's verdict so far.
  function given(row) {
    const found = verdict(row);
    if (!found) return null;
    const which = found.side ? ` ${found.side.toUpperCase()}` : "";
    return el("p", { class: "given" }, el("b", {}, t(`did_${found.verdict}`) + which), found.text || found.reason ? `: ${found.text ?? found.reason}` : "");
  }

  function actions(row) {
    const write = (kind) => { mode = kind; draw(); };
    const choices = row.texts.length > 1
      ? ["a", "b"].map((side) => el("button", { type: "button", class: "main", onclick: () => send({ verdict: "prefer", side }) }, t("prefer_n", side.toUpperCase())))
      : [el("button", { type: "button", class: "main", word: "accept", onclick: () => send({ verdict: "accept" }) })];
    return el("div", { class: "row actions" }, ...choices, el("button", { type: "button", word: "edit", onclick: () => write("edit") }),
      el("button", { type: "button", word: row.texts.length > 1 ? "reject_both" : "reject", onclick: () => write("reject") }));
  }

  function form(row) {
    const found = verdict(row);
    const cancel = el("button", { type: "button", word: "cancel", onclick: () => { mode = null; draw(); view.focus({ preventScroll: true }); } });
    const buttons = el("div", { class: "row" }, cancel, el("button", { class: "main", word: mode === "edit" ? "save_edit" : "reject" }));
    const words = el("textarea", { rows: mode === "edit" ? "6" : "2", id: "words", required: true });
    const submit = (event) => { event.preventDefault(); send(mode === "edit" ? { verdict: "edit", text: words.value } : { verdict: "reject", reason: words.value }); };
    setTimeout(() => words.focus());
    if (mode === "edit") {
      words.value = found?.text ?? row.texts[0];
      const from = row.texts.length < 2 ? null : el("div", { class: "row" }, ...row.texts.map((text, side) =>
        el("button", { type: "button", onclick: () => { words.value = text; words.focus(); } }, t("from_n", "AB"[side]))));
      return el("form", { class: "writing", onsubmit: submit }, from, field("edited_text", words), buttons);
    }
    words.value = found?.reason ?? "";
    const usual = el("select", { id: "usual", onchange: () => { if (usual.value) words.value = usual.value; words.focus(); } });
    // Reasons are stored in English in either language: curation counts equal texts.
    options(usual, [["", t("choose_reason")], ...REASONS.map((name) => [t.en(`reason_${name}`), t(`reason_${name}`)])], "");
    return el("form", { class: "writing", onsubmit: submit }, field("usual_reasons", usual), field("reason", words), buttons);
  }

  async function send(found) {
    if (busy) return;
    busy = true;
    try {
      const row = rows[at];
      const answer = await json("/page/api/review/verdicts", { body: { queue, reviewer, id: row.id, ...found } });
      ownVerdicts = { ...ownVerdicts, ...answer.own_verdicts };
      mode = null;
      showError(wrong, null);
      onVerdict(answer);
      const open = [...rows.keys()].map((step) => (at + 1 + step) % rows.length).find((place) => !ownVerdicts[rows[place].id]);
      if (open !== undefined) at = open;
      draw();
      view.focus({ preventScroll: true });
    } catch (error) { showError(wrong, error); }
    busy = false;
  }

  async function takeBack() {
    if (busy) return;
    busy = true;
    try {
      const answer = await json("/page/api/review/undo", { body: { queue, reviewer } });
      ownVerdicts = answer.own_verdicts;
      mode = null;
      at = Math.max(0, rows.findIndex((row) => row.id === answer.undone));
      showError(wrong, null);
      onVerdict(answer);
      draw();
      view.focus({ preventScroll: true });
    } catch (error) { showError(wrong, error); }
    busy = false;
  }

  function move(by) {
    if (at + by < 0 || at + by >= rows.length) return;
    at += by;
    mode = null;
    draw();
  }

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && mode) { mode = null; draw(); view.focus({ preventScroll: true }); return; }
    if (mode || /^(TEXTAREA|INPUT|SELECT)$/.test(event.target.tagName)) return;
    const both = rows[at]?.texts.length > 1;
    const keys = { j: () => move(1), ArrowRight: () => move(1), k: () => move(-1), ArrowLeft: () => move(-1), u: takeBack };
    if (rows[at]) {
      keys.e = () => { mode = "edit"; draw(); };
      keys.r = () => { mode = "reject"; draw(); };
      if (!both) keys.a = () => send({ verdict: "accept" });
      else { keys[1] = () => send({ verdict: "prefer", side: "a" }); keys[2] = () => send({ verdict: "prefer", side: "b" }); }
    }
    const run = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (run) { event.preventDefault(); run(); }
  }

  // Only while it is on the page: starting again creates another.
  document.addEventListener("languagechange", () => { if (view.isConnected) draw(); });
  draw();
  return view;
}
