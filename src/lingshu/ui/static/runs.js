// Evaluations: a list of runs with their accuracies, and each report in a frame that can reach nothing.
import { json } from "./api.js";
import { el, showError } from "./dom.js";
import { t } from "./texts.js";

const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)}`);

function accuracy(task) {
  if (task.value === null) return el("span", { class: "faint" }, `${task.name}: –`);
  const between = task.low === null ? "" : ` [${percent(task.low)}, ${percent(task.high)}]`;
  return el("span", {}, `${task.name}: ${percent(task.value)}%`, el("span", { class: "faint" }, `${between} n = ${task.n}`));
}

export function runs(about) {
  if (!about.views.runs) return { view: el("p", { class: "empty", word: "no_runs" }) };
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const list = el("ul", { class: "runs" });
  const count = el("p", { class: "faint" });
  const frame = el("div", { class: "frame", hidden: true });
  const view = el("div", {}, el("div", { class: "row" }, count, el("span", { class: "gap" }), el("button", { type: "button", word: "refresh", onclick: load })),
    wrong, list, frame);
  let found = null;

  async function load() {
    try {
      found = await json("/page/api/runs");
      showError(wrong, null);
      draw();
    } catch (error) { showError(wrong, error); }
  }

  function draw() {
    count.textContent = t("runs_n", found.runs.length);
    list.replaceChildren(...found.runs.map((run) => el("li", {},
      el("button", { type: "button", class: "line", onclick: (event) => open(run, event.currentTarget) },
        el("b", {}, run.run === "." ? t("this_folder") : run.run), el("span", { class: "faint" }, run.model ?? ""),
        el("span", { class: "tasks" }, ...run.tasks.map(accuracy)), run.warning ? el("span", { class: "wrong" }, run.warning) : null))));
  }

  async function open(run, button) {
    try {
      const { url } = await json("/page/api/runs/open", { body: { run: run.run } });
      for (const one of list.querySelectorAll("[aria-current]")) one.removeAttribute("aria-current");
      button.setAttribute("aria-current", "true");
      const inside = el("iframe", { sandbox: "allow-scripts", src: url, title: run.run, referrerpolicy: "no-referrer" });
      const newTab = el("a", { href: url, target: "_blank", rel: "noopener noreferrer", word: "new_tab" });
      frame.replaceChildren(el("div", { class: "row" }, el("h3", {}, run.run), el("span", { class: "gap" }), newTab), inside);
      frame.hidden = false;
      showError(wrong, null);
      frame.scrollIntoView({ block: "start" });
    } catch (error) { showError(wrong, error); }
  }

  document.addEventListener("languagechange", () => { if (found) draw(); });
  return { view, shown: () => { if (found === null) load(); } };
}
