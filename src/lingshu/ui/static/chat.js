// A conversation about images, through the API that other clients use: POST /v1/chat/completions, streamed.
import { request, ApiError } from "./api.js";
import { el, field, showError } from "./dom.js";
import { provenanceText } from "./provenance.js";
import { Tray, thumbnail } from "./tray.js";
import { t } from "./texts.js";

// The events of a stream as objects, until its [DONE].
async function* streamEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new ApiError(t("interrupted"), 0);
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message, 500);
      yield event;
    }
  }
}

function messageContent(text, items) {
  return [...items.map((item) => ({ type: "image_url", image_url: { url: item.data } })), { type: "text", text }];
}

// The footer of a reply: what the model saw, its weights, and the notice.
function replyFooter(provenance, finish, labels) {
  const images = (provenance?.image_provenance ?? []).map((image, index) => {
    const label = labels[image.item - 1];
    return el("li", {}, `${index + 1}: ${label ? `${label} · ` : ""}${provenanceText(image)}`);
  });
  const model = provenance ? [provenance.model, " ", el("code", { title: provenance.digest }, provenance.digest.slice(0, 12)), " "] : [];
  return el("footer", {}, images.length ? el("details", {}, el("summary", {}, t("saw_n", images.length)), el("ol", { class: "plain" }, ...images)) : null,
    finish === "length" ? el("p", { text: "truncated" }) : null, el("p", {}, ...model, el("span", { text: "notice" })));
}

export function chat(server, showView) {
  let turns = [];
  let labels = [];
  let running = null;
  const log = el("div", { class: "log", role: "log", "aria-live": "polite", label: "conversation", tabindex: "0" });
  const empty = el("p", { class: "empty", text: "chat_empty" });
  const errorLine = el("p", { class: "error", role: "alert", hidden: true });
  const text = el("textarea", { rows: "3", label: "question", hint: "question_hint" });
  const send = el("button", { class: "main", text: "send" });
  const stop = el("button", { type: "button", text: "stop", hidden: true, onclick: () => running?.abort() });
  const newChat = el("button", { type: "button", text: "new_chat", onclick: startChat });
  const maxTokens = el("input", { type: "number", min: "1", max: String(server.max_tokens), value: String(Math.min(512, server.max_tokens)) });
  const temperature = el("input", { type: "number", min: "0", max: "2", step: "0.1", value: "0" });
  const system = el("textarea", { rows: "2" });
  const tray = new Tray();
  const settings = el("details", { class: "settings" }, el("summary", { text: "settings" }),
    el("div", { class: "row" }, field("max_tokens", maxTokens), field("temperature", temperature)), field("system", system));
  const form = el("form", { class: "composer", onsubmit: submit }, tray.list, text, tray.input,
    el("div", { class: "row" }, tray.button, el("span", { class: "spacer" }), newChat, stop, send), errorLine, settings);
  tray.acceptFiles(form);
  log.append(empty);
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
    if (event.key === "Escape") running?.abort();
  });

  function startChat() {
    running?.abort();
    turns = [];
    labels = [];
    log.replaceChildren(empty);
    showError(errorLine, null);
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
    const question = text.value.trim();
    if (!question || running) return;
    const items = tray.take();
    text.value = "";
    showError(errorLine, null);
    const questionBubble = bubble("user", items.length ? el("div", { class: "attachments" }, ...items.map((item) => el("figure", {}, ...thumbnail(item)))) : null,
      el("p", { class: "verbatim" }, question));
    const nLabelsBefore = labels.length;
    turns.push({ role: "user", content: messageContent(question, items) });
    labels.push(...items.map((item) => item.label));
    const replyLine = el("p", { class: "verbatim" }), reply = bubble("model waiting", replyLine);
    const failure = await streamReply(replyLine, reply);
    if (failure) {
      turns.pop();
      labels.length = nLabelsBefore;
      questionBubble.remove();
      reply.remove();
      text.value = question;
      tray.restore(items);
      showError(errorLine, failure);
      if (!turns.length) log.append(empty);
    }
    text.focus();
  }

  // Streams one reply into `replyLine`; returns the error if nothing arrived.
  async function streamReply(replyLine, reply) {
    running = new AbortController();
    stop.hidden = false;
    send.disabled = true;
    let replyText = "", provenance = null, finish = null, failure = null;
    const prompt = system.value.trim();
    const messages = prompt ? [{ role: "system", content: prompt }, ...turns] : turns;
    const body = { model: server.name, messages, stream: true, temperature: Number(temperature.value) || 0, max_tokens: Number(maxTokens.value) || server.max_tokens };
    try {
      const response = await request("/v1/chat/completions", { body, signal: running.signal });
      for await (const event of streamEvents(response)) {
        const choice = event.choices[0];
        replyText += choice?.delta?.content ?? "";
        finish = choice?.finish_reason ?? finish;
        provenance = event.lingshu ?? provenance;
        const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
        replyLine.textContent = replyText;
        if (isAtEnd) log.scrollTop = log.scrollHeight;
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
    if (!replyText) replyLine.append(el("em", { text: finish === "stopped" ? "stopped_empty" : "reply_empty" }));
    else if (finish === "stopped") reply.append(el("p", { class: "error", text: "stopped" }));
    if (failure) reply.append(el("p", { class: "error" }, failure.message));
    reply.append(replyFooter(provenance, finish, labels));
    reply.dataset.done = "";
    log.scrollTop = log.scrollHeight;
    return null;
  }

  const view = el("div", { class: "chat" }, log, form);
  return { view, add: (item) => { tray.add(item); showView(); text.focus(); } };
}
