// Lists, filters and shows the samples of a report page. Text from data goes into text nodes, never into HTML.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("samples-data").textContent);
  const { rows, tasks, other, left_out: leftOut } = data;
  const ROW = 52; // pixels of a line of the list, as in the style
  const ORDER = ["right", "partly", "wrong", "unparsed", "refused", "empty", "multiple", "unscored", "error", "waiting"];
  const MARKS = { right: "✓", partly: "◐", wrong: "✗", error: "!", waiting: "…" };
  const LABELS = { partly: "partly right", multiple: "several answers", waiting: "waits for a judge" };
  const list = find("list"), detail = find("detail"), search = find("search"), count = find("count");
  const canvas = element("div", { class: "canvas", role: "presentation" });
  list.append(canvas);

  const state = { words: [], outcome: null, picks: new Map(), shown: [], at: 0 };
  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  const number = (value) => value.toLocaleString("en");
  const label = (outcome) => LABELS[outcome] || outcome;
  const worth = (score) => score.value ?? 0;
  const fair = (a, b) => a && b && ![a.outcome, b.outcome].some((each) => ["error", "waiting", "unscored"].includes(each));

  // --- what can be chosen
  function tally(values) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return counts;
  }

  function filters() {
    const made = [];
    if (tasks.length > 1) {
      const counts = tally(rows.map((row) => row.task));
      const options = tasks.map((task, at) => ({ name: task.title, count: counts.get(at) || 0, test: (row) => row.task === at }));
      made.push({ name: "Task", groups: [{ options }] });
    }
    for (const facet of new Set(tasks.flatMap((task) => task.facets))) {
      const value = (row) => (tasks[row.task].facets.includes(facet) ? row.facets?.[facet] ?? "unknown" : null);
      const counts = tally(rows.map(value));
      counts.delete(null);
      const names = [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      if (names.length < 2 || names.length > 300) continue;
      const options = names.map((name) => ({ name, count: counts.get(name), test: (row) => value(row) === name }));
      made.push({ name: facet[0].toUpperCase() + facet.slice(1), groups: [{ options }] });
    }
    const groups = [];
    if (other) groups.push(versus(`against ${other.run}`, null, null, (row) => row, (row) => row.other));
    for (const name of new Set(rows.flatMap((row) => Object.keys(row.also || {})))) {
      const lead = [...new Set(tasks.map((task) => task.protocol))].join("/");
      groups.push(versus(`${name} against ${lead}`, name, lead, (row) => row.also?.[name], (row) => row.also?.[name] && row));
    }
    if (groups.length) made.push({ name: "Compare", groups });
    return made;
  }

  function versus(name, mine, theirs, first, second) {
    const test = (found) => (row) => Boolean(fair(first(row), second(row)) && found(first(row), second(row)));
    // A closed list shows the option without its group, so that the names of protocols are in each.
    const options = [
      { name: mine ? `${mine} and ${theirs} differ` : "they differ", test: test((a, b) => worth(a) !== worth(b)) },
      { name: `only ${mine || "this one"} right`, test: test((a, b) => worth(a) > worth(b)) },
      { name: `only ${theirs || "the other"} right`, test: test((a, b) => worth(a) < worth(b)) },
      { name: mine ? `${mine} and ${theirs} right` : "both right", test: test((a, b) => a.outcome === "right" && b.outcome === "right") },
      { name: mine ? `neither ${mine} nor ${theirs} right` : "neither right",
        test: test((a, b) => a.outcome !== "right" && b.outcome !== "right") },
    ];
    if (mine) options.push({ name: `no verdict by ${mine}`, test: (row) => first(row)?.value === null });
    for (const one of options) one.count = rows.filter(one.test).length;
    return { name, options };
  }

  function drawFilters() {
    for (const filter of filters()) {
      const select = element("select", {}, element("option", { value: "" }, "all"));
      const tests = [];
      for (const group of filter.groups) {
        const holder = group.name ? element("optgroup", { label: group.name }) : select;
        if (group.name) select.append(holder);
        for (const one of group.options) {
          holder.append(element("option", { value: String(tests.length) }, `${one.name} (${number(one.count)})`));
          tests.push(one.test);
        }
      }
      select.addEventListener("change", () => {
        if (select.value === "") state.picks.delete(filter.name);
        else state.picks.set(filter.name, tests[Number(select.value)]);
        apply();
      });
      find("selects").append(element("label", {}, filter.name, " ", select));
    }
  }

  function drawOutcomes(counts) {
    const total = [...counts.values()].reduce((sum, each) => sum + each, 0);
    const present = ORDER.filter((name) => counts.has(name) || name === state.outcome);
    find("outcomes").replaceChildren(...[null, ...present].map((name) => {
      const text = `${name === null ? "all" : label(name)} ${number(name === null ? total : counts.get(name) || 0)}`;
      const mark = element("span", { "aria-hidden": "true", class: `mark ${name}` }, name === null ? "" : `${MARKS[name] || "?"} `);
      return element("button", { type: "button", "data-outcome": name || "all", "aria-pressed": String(state.outcome === name) }, mark, text);
    }));
  }

  find("outcomes").addEventListener("click", (event) => {
    const chip = event.target.closest("button");
    if (!chip) return;
    state.outcome = chip.dataset.outcome === "all" ? null : chip.dataset.outcome;
    apply();
    find("outcomes").querySelector('[aria-pressed="true"]')?.focus();
  });

  // --- which are shown ---------------------------------------------------------------------------------------------
  const texts = new Array(rows.length); // lower-case text to search in, made when a sample is first searched
  function text(at) {
    const row = rows[at];
    texts[at] ??= [row.id, row.question, row.reply, row.prediction, row.note, row.group, row.other?.reply, ...(row.choices || []),
      ...(row.gold || []), ...Object.values(row.facets || {}), ...Object.values(row.also || {}).map((one) => one.note)]
      .filter(Boolean).join("\n").toLowerCase();
    return texts[at];
  }

  function apply() {
    const chosen = state.shown[state.at];
    const counts = new Map(), tests = [...state.picks.values()];
    state.shown = [];
    rows.forEach((row, at) => {
      if (!tests.every((test) => test(row)) || !state.words.every((word) => text(at).includes(word))) return;
      counts.set(row.outcome, (counts.get(row.outcome) || 0) + 1);
      if (state.outcome === null || row.outcome === state.outcome) state.shown.push(at);
    });
    state.at = Math.max(0, state.shown.indexOf(chosen));
    count.textContent = `${number(state.shown.length)} of ${number(rows.length)} samples`;
    canvas.style.height = `${ROW * state.shown.length}px`;
    drawOutcomes(counts);
    choose(state.at);
  }

  function choose(at) {
    state.at = Math.max(0, Math.min(at, state.shown.length - 1));
    const top = ROW * state.at;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    drawList();
    drawDetail();
  }

  // Only the lines that can be seen exist.
  function drawList() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const last = Math.min(state.shown.length, first + Math.ceil(list.clientHeight / ROW) + 8);
    const lines = [];
    for (let at = first; at < last; at += 1) {
      const row = rows[state.shown[at]];
      const line = element("div", { role: "option", id: `line-${at}`, class: "line", "aria-selected": String(at === state.at),
        "aria-setsize": String(state.shown.length), "aria-posinset": String(at + 1) });
      line.style.top = `${ROW * at}px`;
      line.append(
        element("span", { class: `mark ${row.outcome}`, role: "img", "aria-label": label(row.outcome) }, MARKS[row.outcome] || "?"),
        element("span", { class: "asked" }, (row.question || row.id).slice(0, 200)),
        element("span", { class: "said" }, (row.reply || label(row.outcome)).slice(0, 200)));
      line.addEventListener("click", () => choose(at));
      lines.push(line);
    }
    canvas.replaceChildren(...lines);
    if (state.shown.length) list.setAttribute("aria-activedescendant", `line-${state.at}`);
    else list.removeAttribute("aria-activedescendant");
  }

  // --- one sample --------------------------------------------------------------------------------------------------
  const badge = (score) => element("span", { class: `badge ${score.outcome}` }, `${MARKS[score.outcome] || "?"} ${label(score.outcome)}`);
  const said = (value) => element("div", { class: "text", dir: "auto" }, value);
  const missing = (value) => element("span", { class: "missing" }, value);
  const entry = (name, value) => [element("dt", {}, name), element("dd", {}, value)];

  function drawDetail() {
    const row = rows[state.shown[state.at]];
    if (!row) { detail.replaceChildren(element("p", {}, "No sample fits these filters.")); return; }
    const step = (name, by) => {
      const made = element("button", { type: "button" }, name);
      made.disabled = state.at + by < 0 || state.at + by >= state.shown.length;
      made.addEventListener("click", () => choose(state.at + by));
      return made;
    };
    const place = element("span", {}, `${number(state.at + 1)} of ${number(state.shown.length)}`);
    const head = element("header", {}, step("‹ previous", -1), place, step("next ›", 1));
    const title = element("h3", {}, badge(row), " ", row.id);
    if (tasks.length > 1) title.append(element("small", {}, ` ${tasks[row.task].title}`));
    const right = element("dl", {}, ...entry("gold", row.gold ? row.gold.join(" · ") : missing("not known")));
    const question = row.question ? said(row.question) : missing("not in the scores");
    const asked = element("div", { class: "ask" }, element("h4", {}, "Question"), question, choices(row), right);
    detail.replaceChildren(...[head, title, element("div", { class: "top" }, pictures(row), asked), replies(row), more(row)].filter(Boolean));
    detail.scrollTop = 0;
  }

  function pictures(row) {
    const shown = (row.images || []).map((at, place) => {
      const held = at === null ? null : find(`picture-${at}`);
      const alt = `Image ${place + 1} of ${row.images.length} of sample ${row.id}`;
      if (held) return element("img", { alt, src: `data:image/jpeg;base64,${held.textContent}` });
      return element("p", { class: "missing" }, at === null ? "The image is not on this page." : "The image is being read …");
    });
    return shown.length ? element("div", { class: "pictures" }, ...shown) : null;
  }

  function choices(row) {
    if (!row.choices) return null;
    const lines = row.choices.map((choice, at) => {
      const letter = String.fromCharCode(65 + at);
      // "C. difficile" may well be option A.
      const text = /^\(?[A-Z][.):]/.test(choice) && choice.replace("(", "")[0] === letter ? choice : `${letter}. ${choice}`;
      const tags = [(row.gold || []).includes(letter) ? "gold" : null, row.prediction === letter ? "prediction" : null].filter(Boolean);
      return element("li", { class: tags.join(" ") }, text, ...tags.map((tag) => element("span", { class: `tag ${tag}` }, tag)));
    });
    return element("ul", { class: "choices", dir: "auto" }, ...lines);
  }

  function replies(row) {
    const mine = card(other ? `This run: ${data.model}` : "Reply", row, row.reply, row.cut);
    if (!other) return mine;
    const theirs = row.other ? card(`${other.run}: ${other.model}`, row.other, row.other.reply, false)
      : element("section", { class: "card" }, element("h4", {}, other.run), missing("has no such sample"));
    return element("div", { class: "cards" }, mine, theirs);
  }

  function card(name, score, reply, cut) {
    const words = reply === null || reply === undefined ? missing("none") : reply === "" ? missing("empty") : said(reply);
    const facts = entry("read as", score.prediction ?? missing("nothing"));
    if (score.value !== null) facts.push(...entry("value", String(score.value)));
    if (score.note) facts.push(...entry("note", score.note));
    facts.push(...reasons(score));
    if (cut) facts.push(...entry("length", "cut at max_tokens"));
    return element("section", { class: "card" }, element("h4", {}, name, " ", badge(score)), words, element("dl", {}, ...facts));
  }

  function reasons(score) {
    const found = score.reason ? entry("reason", score.reason) : [];
    const parts = (score.criteria || []).map(([verdict, points, text, reason]) => element("li", {},
      element("strong", {}, `${verdict || "no verdict"} (${points})`), ` ${text}`, reason ? element("div", { class: "missing" }, reason) : null));
    return parts.length ? [...found, ...entry("rubric", element("ul", {}, ...parts))] : found;
  }

  function more(row) {
    const facts = [];
    for (const [name, score] of Object.entries(row.also || {})) {
      const text = [badge(score), score.prediction ? ` read as ${score.prediction}` : "", score.note ? `: ${score.note}` : ""];
      facts.push(...entry(name, element("span", {}, ...text)), ...reasons(score));
    }
    for (const [name, value] of Object.entries(row.facets || {})) facts.push(...entry(name, value));
    if (row.group) facts.push(...entry("group", row.group));
    for (const [name, value] of Object.entries(row.metrics || {})) facts.push(...entry(name, value === null ? "–" : String(value)));
    return facts.length ? element("dl", { class: "more" }, ...facts) : null;
  }

  // --- hands -------------------------------------------------------------------------------------------------------
  search.addEventListener("input", () => {
    state.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    apply();
  });
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  document.querySelector(".filters").addEventListener("reset", () => {
    Object.assign(state, { words: [], outcome: null });
    state.picks.clear();
    apply();
  });
  list.addEventListener("scroll", drawList);
  window.addEventListener("resize", drawList);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === search) {
      if (event.key !== "Escape") return;
      event.preventDefault();
      if (search.value) { search.value = ""; search.dispatchEvent(new Event("input")); } else list.focus();
      return;
    }
    if (/^(SELECT|INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); search.select(); return; }
    const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
    const anywhere = { j: 1, k: -1 }, inList = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const by = anywhere[event.key] ?? (event.target === list ? inList[event.key] : undefined);
    if (by === undefined) return;
    event.preventDefault();
    choose(state.at + by);
    list.scrollIntoView({ block: "nearest" });
  });

  const absent = [leftOut.samples && `${number(leftOut.samples)} samples are not on this page; the scores files hold them.`,
    leftOut.images && `The images of ${number(leftOut.images)} questions are not on this page: not kept by the run, or beyond its room.`];
  find("left-out").textContent = absent.filter(Boolean).join(" ");
  drawFilters();
  apply();
  document.addEventListener("DOMContentLoaded", drawDetail); // the images come after this script
  document.documentElement.dataset.usable = String(Math.round(performance.now()));
})();
