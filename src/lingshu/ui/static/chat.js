// A conversation about images, through the same interface that programs use: POST /v1/chat/completions, streamed.
import { ask, ApiError } from "./api.js";
import { el, field, showError } from "./dom.js";
import { provenanceText } from "./provenance.js";
import { Tray, thumbnail } from "./tray.js";
import { t } from "./texts.js";

// The events of a stream as objects, until its [DONE].
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new ApiError(t("broken_off"), 0);
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new ApiError(found.error.message, 500);
      yield found;
    }
  }
}

function contentOf(text, items) {
  return [...items.map((item) => ({ type: "image_url", image_url: { url: item.data } })), { type: "text", text }];
}

// The footer of a reply: what the model saw, its weights, and the notice.
function replyFooter(provenance, finish, labels) {
  const seen = (provenance?.image_provenance ?? []).map((one, at) => {
    const label = labels[one.item - 1];
    return el("li", {}, `${at + 1}: ${label ? `${label} · ` : ""}${provenanceText(one)}`);
  });
  const line = provenance ? [provenance.model, " ", el("code", { title: provenance.digest }, provenance.digest.slice(0, 12)), " "] : [];
  return el("footer", {}, seen.length ? el("details", {}, el("summary", {}, t("saw_n", seen.length)), el("ol", { class: "plain" }, ...seen)) : null,
    finish === "length" ? el("p", { word: "cut" }) : null, el("p", {}, ...line, el("span", { word: "notice" })));
}

export function chat(about, showView) {
  let turns = [];
  let labels = [];
  let running = null;
  const log = el("div", { class: "log", role: "log", "aria-live": "polite", label: "conversation", tabindex: "0" });
  const empty = el("p", { class: "empty", word: "chat_empty" });
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const text = el("textarea", { rows: "3", label: "question", hint: "question_hint" });
  const send = el("button", { class: "main", word: "send" });
  const stop = el("button", { type: "button", word: "stop", hidden: true, onclick: () => running?.abort() });
  const newChat = el("button", { type: "button", word: "new_chat", onclick: begin });
  const maxTokens = el("input", { type: "number", min: "1", max: String(about.max_tokens), value: String(Math.min(512, about.max_tokens)) });
  const temperature = el("input", { type: "number", min: "0", max: "2", step: "0.1", value: "0" });
  const system = el("textarea", { rows: "2" });
  const tray = new Tray();
  const settings = el("details", { class: "settings" }, el("summary", { word: "settings" }),
    el("div", { class: "row" }, field("max_tokens", maxTokens), field("temperature", temperature)), field("system", system));
  const form = el("form", { class: "composer", onsubmit: submit }, tray.list, text, tray.input,
    el("div", { class: "row" }, tray.button, el("span", { class: "gap" }), newChat, stop, send), wrong, settings);
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
    showError(wrong, null);
    text.focus();
  }

  function bubble(role, ...children) {
    const article = el("article", { class: role }, ...children);
    empty.remove();
    log.append(article);
    log.scrollTop = log.scrollHeight;
    return article;
  }

  async function submit(event) {
    event.preventDefault();
    const words = text.value.trim();
    if (!words || running) return;
    const items = tray.take();
    text.value = "";
    showError(wrong, null);
    const questionBubble = bubble("user", items.length ? el("div", { class: "shown" }, ...items.map((item) => el("figure", {}, ...thumbnail(item)))) : null,
      el("p", { class: "said" }, words));
    const nLabels = labels.length;
    turns.push({ role: "user", content: contentOf(words, items) });
    labels.push(...items.map((item) => item.label));
    const replyLine = el("p", { class: "said" }), reply = bubble("model waiting", replyLine);
    const failed = await answer(replyLine, reply);
    if (failed) {
      turns.pop();
      labels.length = nLabels;
      questionBubble.remove();
      reply.remove();
      text.value = words;
      tray.put(items);
      showError(wrong, failed);
      if (!turns.length) log.append(empty);
    }
    text.focus();
  }

  // Streams one reply into `replyLine`; returns the error if nothing arrived.
  async function answer(replyLine, reply) {
    running = new AbortController();
    stop.hidden = false;
    send.disabled = true;
    let replyText = "", provenance = null, finish = null, failure = null;
    const prompt = system.value.trim();
    const messages = prompt ? [{ role: "system", content: prompt }, ...turns] : turns;
    const body = { model: about.name, messages, stream: true, temperature: Number(temperature.value) || 0, max_tokens: Number(maxTokens.value) || about.max_tokens };
    try {
      const got = await ask("/v1/chat/completions", { body, signal: running.signal });
      for await (const event of events(got)) {
        const choice = event.choices[0];
        replyText += choice?.delta?.content ?? "";
        finish = choice?.finish_reason ?? finish;
        provenance = event.lingshu ?? provenance;
        const follow = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
        replyLine.textContent = replyText;
        if (follow) log.scrollTop = log.scrollHeight;
      }
    } catch (error) {
      if (error.name !== "AbortError") failure = error;
      else finish = "stopped";
    }
    running = null;
    stop.hidden = true;
    send.disabled = false;
    reply.classList.remove("waiting");
    if (failure && !replyText) return failure;
    turns.push({ role: "assistant", content: replyText });
    if (!replyText) replyLine.append(el("em", { word: finish === "stopped" ? "stopped_empty" : "reply_empty" }));
    else if (finish === "stopped") reply.append(el("p", { class: "wrong", word: "stopped" }));
    if (failure) reply.append(el("p", { class: "wrong" }, failure.message));
    reply.append(replyFooter(provenance, finish, labels));
    reply.dataset.done = "";
    log.scrollTop = log.scrollHeight;
    return null;
  }

  const view = el("div", { class: "chat" }, log, form);
  return { view, add: (item) => { tray.add(item); showView(); text.focus(); } };
}
