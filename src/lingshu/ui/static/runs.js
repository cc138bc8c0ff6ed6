// Evaluations: a list of runs with their accuracies, and each report in a frame that can reach nothing.
import { requestJson } from "./api.js";
import { el, showError } from "./dom.js";
import { t } from "./texts.js";

const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)}`);

function accuracy(task) {
  if (task.value === null) return el("span", { class: "muted" }, `${task.name}: –`);
  const interval = task.low === null ? "" : ` [${percent(task.low)}, ${percent(task.high)}]`;
  return el("span", {}, `${task.name}: ${percent(task.value)}%`, el("span", { class: "muted" }, `${interval} n = ${task.n}`));
}

export function runs(server) {
  if (!server.views.runs) return { view: el("p", { class: "empty", text: "no_runs" }) };
  const errorLine = el("p", { class: "error", role: "alert", hidden: true });
  const list = el("ul", { class: "runs" });
  const count = el("p", { class: "muted" });
  const frame = el("div", { class: "frame", hidden: true });
  const view = el("div", {}, el("div", { class: "row" }, count, el("span", { class: "spacer" }), el("button", { type: "button", text: "refresh", onclick: load })),
    errorLine, list, frame);
  let response = null;

  async function load() {
    try {
      response = await requestJson("/page/api/runs");
      showError(errorLine, null);
      draw();
    } catch (error) { showError(errorLine, error); }
  }

  function draw() {
    count.textContent = t("runs_n", response.runs.length);
    list.replaceChildren(...response.runs.map((run) => el("li", {},
      el("button", { type: "button", class: "run", onclick: (event) => open(run.run, event.currentTarget) },
        el("b", {}, run.run === "." ? t("this_folder") : run.run), el("span", { class: "muted" }, run.model ?? ""),
        el("span", { class: "tasks" }, ...run.tasks.map(accuracy)), run.warning ? el("span", { class: "error" }, run.warning) : null))));
  }

  async function open(name, button) {
    try {
      const { url } = await requestJson("/page/api/runs/open", { body: { run: name } });
      for (const other of list.querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
      button.setAttribute("aria-current", "true");
      const reportFrame = el("iframe", { sandbox: "allow-scripts", src: url, title: name, referrerpolicy: "no-referrer" });
      const newTab = el("a", { href: url, target: "_blank", rel: "noopener noreferrer", text: "new_tab" });
      frame.replaceChildren(el("div", { class: "row" }, el("h3", {}, name), el("span", { class: "spacer" }), newTab), reportFrame);
      frame.hidden = false;
      showError(errorLine, null);
      frame.scrollIntoView({ block: "start" });
    } catch (error) { showError(errorLine, error); }
  }

  document.addEventListener("languagechange", () => { if (response) draw(); });
  return { view, shown: () => { if (response === null) load(); } };
}
