// Review of generated samples: which queue, who reviews, and the agreement of the reviewers. One sample is reviewed in sample_review.js.
import { requestJson } from "./api.js";
import { el, field, options, showError } from "./dom.js";
import { sampleReview } from "./sample_review.js";
import { t } from "./texts.js";

const twoDecimals = (value) => (value === null ? "–" : value.toFixed(2));

export function review(server) {
  if (!server.views.review) return { view: el("p", { class: "empty", text: "no_review" }) };
  let queues = null;
  const errorLine = el("p", { class: "error", role: "alert", hidden: true });
  const queue = el("select", {});
  const reviewer = el("input", { type: "text", maxlength: "80", autocomplete: "off", required: true, id: "reviewer" });
  const start = el("form", { class: "composer row", onsubmit: startReview }, field("queue", queue, "field wide"), field("reviewer", reviewer),
    el("button", { class: "main", text: "begin" }));
  const sample = el("div", {});
  const agreementTable = el("div", {});
  const agreementPanel = el("details", { class: "agreement", hidden: true }, el("summary", { text: "agreement" }), agreementTable);
  const view = el("div", { class: "review" }, start, errorLine, sample, agreementPanel);

  async function load() {
    try {
      queues = (await requestJson("/page/api/review")).queues;
      draw();
      showError(errorLine, queues.length ? null : new Error(t("no_queues")));
    } catch (error) { showError(errorLine, error); }
  }

  function draw() {
    options(queue, queues.map((entry) => [entry.queue, `${entry.name} · ${t("samples_n", entry.rows)}`]), queue.value || queues[0]?.queue);
  }

  async function startReview(event) {
    event.preventDefault();
    showError(errorLine, null);
    const queueName = queue.value, reviewerName = reviewer.value.trim();
    try {
      const state = await requestJson(`/page/api/review/queue?queue=${encodeURIComponent(queueName)}&reviewer=${encodeURIComponent(reviewerName)}`);
      sample.replaceChildren(sampleReview({ queue: queueName, reviewer: reviewerName, state, onVerdict: showAgreement }));
      showAgreement(state);
      sample.firstChild.focus({ preventScroll: true });
    } catch (error) { showError(errorLine, error); }
  }

  // Everybody's progress, and the agreement of each pair on what both judged.
  function showAgreement(state) {
    const people = Object.entries(state.reviewers).map(([name, done]) => el("li", {}, `${name}: ${t("judged_n", done)}`));
    const rows = state.agreement.map((pair) => el("tr", {}, el("th", { scope: "row" }, pair.reviewers.join(" / ")),
      ...[String(pair.n), `${(100 * pair.observed_agreement).toFixed(0)}%`, twoDecimals(pair.kappa), twoDecimals(pair.ac1)].map((value) => el("td", {}, value))));
    const head = ["pair", "both", "agree", "kappa", "ac1"].map((text) => el("th", { scope: "col", text }));
    agreementTable.replaceChildren(el("ul", {}, ...people),
      rows.length ? el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows))) : "",
      el("p", { class: "muted" }, t("written_to", state.file)));
    agreementPanel.hidden = false;
  }

  document.addEventListener("languagechange", () => { if (queues) draw(); });
  return { view, shown: () => { if (queues === null) load(); } };
}
