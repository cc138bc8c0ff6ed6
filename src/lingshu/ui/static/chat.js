// A conversation about images, through the same interface that programs use: POST /v1/chat/completions, streamed.
import { ask, Wrong } from "./api.js";
import { el, field, tell } from "./dom.js";
import { seenWords } from "./seen.js";
import { Tray, thumbnail } from "./tray.js";
import { t } from "./words.js";

// The events of a stream as objects, until its [DONE].
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Wrong(t("broken_off"), 0);
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new Wrong(found.error.message, 500);
      yield found;
    }
  }
}

function contentOf(text, items) {
  return [...items.map((item) => ({ type: "image_url", image_url: { url: item.data } })), { type: "text", text }];
}

// What must stand below a reply: what was seen, by whose weights, and that it is no clinical statement.
function below(told, finish, labels) {
  const seen = (told?.image_provenance ?? []).map((one, at) => {
    const label = labels[one.item - 1];
    return el("li", {}, `${at + 1}: ${label ? `${label} · ` : ""}${seenWords(one)}`);
  });
  const line = told ? [told.model, " ", el("code", { title: told.digest }, told.digest.slice(0, 12)), " "] : [];
  return el("footer", {}, seen.length ? el("details", {}, el("summary", {}, t("saw_n", seen.length)), el("ol", { class: "plain" }, ...seen)) : null,
    finish === "length" ? el("p", { word: "cut" }) : null, el("p", {}, ...line, el("span", { word: "notice" })));
}

export function chat(about, front) {
  let turns = [];
  let labels = [];
  let running = null;
  const log = el("div", { class: "log", role: "log", "aria-live": "polite", label: "conversation", tabindex: "0" });
  const empty = el("p", { class: "empty", word: "chat_empty" });
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const text = el("textarea", { rows: "3", label: "question", hint: "question_hint" });
  const send = el("button", { class: "main", word: "send" });
  const stop = el("button", { type: "button", word: "stop", hidden: true, onclick: () => running?.abort() });
  const anew = el("button", { type: "button", word: "new_chat", onclick: begin });
  const most = el("input", { type: "number", min: "1", max: String(about.max_tokens), value: String(Math.min(512, about.max_tokens)) });
  const heat = el("input", { type: "number", min: "0", max: "2", step: "0.1", value: "0" });
  const system = el("textarea", { rows: "2" });
  const tray = new Tray();
  const settings = el("details", { class: "settings" }, el("summary", { word: "settings" }),
    el("div", { class: "row" }, field("max_tokens", most), field("temperature", heat)), field("system", system));
  const form = el("form", { class: "composer", onsubmit: submit }, tray.list, text, tray.input,
    el("div", { class: "row" }, tray.button, el("span", { class: "gap" }), anew, stop, send), wrong, settings);
  tray.watch(form);
  log.append(empty);
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
    if (event.key === "Escape") running?.abort();
  });

  function begin() {
    running?.abort();
    turns = [];
    labels = [];
    log.replaceChildren(empty);
    tell(wrong, null);
    text.focus();
  }

  function bubble(role, ...children) {
    const made = el("article", { class: role }, ...children);
    empty.remove();
    log.append(made);
    log.scrollTop = log.scrollHeight;
    return made;
  }

  async function submit(event) {
    event.preventDefault();
    const words = text.value.trim();
    if (!words || running) return;
    const items = tray.take();
    text.value = "";
    tell(wrong, null);
    const asked = bubble("user", items.length ? el("div", { class: "shown" }, ...items.map((item) => el("figure", {}, ...thumbnail(item)))) : null,
      el("p", { class: "said" }, words));
    const before = labels.length;
    turns.push({ role: "user", content: contentOf(words, items) });
    labels.push(...items.map((item) => item.label));
    const said = el("p", { class: "said" }), reply = bubble("model waiting", said);
    const failed = await answer(said, reply);
    if (failed) {
      turns.pop();
      labels.length = before;
      asked.remove();
      reply.remove();
      text.value = words;
      tray.put(items);
      tell(wrong, failed);
      if (!turns.length) log.append(empty);
    }
    text.focus();
  }

  // Streams one reply into `said`; gives the error back where there is nothing of it.
  async function answer(said, reply) {
    running = new AbortController();
    stop.hidden = false;
    send.disabled = true;
    let heard = "", told = null, finish = null, broken = null;
    const prompt = system.value.trim();
    const messages = prompt ? [{ role: "system", content: prompt }, ...turns] : turns;
    const body = { model: about.name, messages, stream: true, temperature: Number(heat.value) || 0, max_tokens: Number(most.value) || about.max_tokens };
    try {
      const got = await ask("/v1/chat/completions", { body, signal: running.signal });
      for await (const event of events(got)) {
        const choice = event.choices[0];
        heard += choice?.delta?.content ?? "";
        finish = choice?.finish_reason ?? finish;
        told = event.lingshu ?? told;
        const follow = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
        said.textContent = heard;
        if (follow) log.scrollTop = log.scrollHeight;
      }
    } catch (error) {
      if (error.name !== "AbortError") broken = error;
      else finish = "stopped";
    }
    running = null;
    stop.hidden = true;
    send.disabled = false;
    reply.classList.remove("waiting");
    if (broken && !heard) return broken;
    turns.push({ role: "assistant", content: heard });
    if (!heard) said.append(el("em", { word: finish === "stopped" ? "stopped_empty" : "reply_empty" }));
    else if (finish === "stopped") reply.append(el("p", { class: "wrong", word: "stopped" }));
    if (broken) reply.append(el("p", { class: "wrong" }, broken.message));
    reply.append(below(told, finish, labels));
    reply.dataset.done = "";
    log.scrollTop = log.scrollHeight;
    return null;
  }

  const view = el("div", { class: "chat" }, log, form);
  return { view, add: (item) => { tray.add(item); front(); text.focus(); } };
}
