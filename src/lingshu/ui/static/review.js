// Review of generated samples: which queue, who reviews, and the agreement of the reviewers. One sample is judged in judging.js.
import { json } from "./api.js";
import { el, field, options, showError } from "./dom.js";
import { judging } from "./judging.js";
import { t } from "./texts.js";

const two = (value) => (value === null ? "–" : value.toFixed(2));

export function review(about) {
  if (!about.views.review) return { view: el("p", { class: "empty", word: "no_review" }) };
  let queues = null;
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const queue = el("select", {});
  const reviewer = el("input", { type: "text", maxlength: "80", autocomplete: "off", required: true, id: "reviewer" });
  const start = el("form", { class: "composer row", onsubmit: begin }, field("queue", queue, "field wide"), field("reviewer", reviewer),
    el("button", { class: "main", word: "begin" }));
  const place = el("div", {});
  const agreed = el("div", {});
  const others = el("details", { class: "agreement", hidden: true }, el("summary", { word: "agreement" }), agreed);
  const view = el("div", { class: "review" }, start, wrong, place, others);

  async function load() {
    try {
      queues = (await json("/page/api/review")).queues;
      draw();
      showError(wrong, queues.length ? null : new Error(t("no_queues")));
    } catch (error) { showError(wrong, error); }
  }

  function draw() {
    options(queue, queues.map((one) => [one.queue, `${one.name} · ${t("samples_n", one.rows)}`]), queue.value || queues[0]?.queue);
  }

  async function begin(event) {
    event.preventDefault();
    showError(wrong, null);
    const name = queue.value, who = reviewer.value.trim();
    try {
      const state = await json(`/page/api/review/queue?queue=${encodeURIComponent(name)}&reviewer=${encodeURIComponent(who)}`);
      place.replaceChildren(judging({ queue: name, reviewer: who, state, onVerdict: agreement }));
      agreement(state);
      place.firstChild.focus({ preventScroll: true });
    } catch (error) { showError(wrong, error); }
  }

  // Everybody's progress, and the agreement of each pair on what both judged.
  function agreement(state) {
    const people = Object.entries(state.reviewers).map(([name, done]) => el("li", {}, `${name}: ${t("judged_n", done)}`));
    const rows = state.agreement.map((pair) => el("tr", {}, el("th", { scope: "row" }, pair.reviewers.join(" / ")),
      ...[String(pair.n), `${(100 * pair.observed_agreement).toFixed(0)}%`, two(pair.kappa), two(pair.ac1)].map((value) => el("td", {}, value))));
    const head = ["pair", "both", "agree", "kappa", "ac1"].map((word) => el("th", { scope: "col", word }));
    agreed.replaceChildren(el("ul", {}, ...people),
      rows.length ? el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows))) : "",
      el("p", { class: "faint" }, t("written_to", state.file)));
    others.hidden = false;
  }

  document.addEventListener("languagechange", () => { if (queues) draw(); });
  return { view, shown: () => { if (queues === null) load(); } };
}
