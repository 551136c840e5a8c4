// The chat page: streams answers with the thought folded, and shows DeepConf's traces while they run.
const history = [];
let running = null;

// Theme: follow the system until told otherwise. Storage may be refused, so a failure only forgets.
const THEMES = ["auto", "light", "dark"];
const kept = (store, name) => { try { return store().getItem(name); } catch { return null; } };
const keep = (store, name, value) => { try { store().setItem(name, value); } catch { /* forgotten on reload */ } };
function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
  $("theme").textContent = `Theme: ${name}`;
  keep(() => localStorage, "h1r-theme", name);
}

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

// Header values are bytes: a key with other letters fails inside fetch with words nobody understands.
async function fetched(path, options = {}) {
  if (/[^\x20-\xff]/.test($("key").value.trim())) throw new Error("The API key holds a character that no key can have.");
  let response;
  try {
    response = await fetch(path, { headers: headers(), ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`The server cannot be reached (${error.message}). Is it still running?`);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  const message = told?.error?.message ?? `The server answered ${response.status} ${response.statusText}`.trim();
  if (response.status === 401) wantKey(message);
  throw new Error(message);
}

async function* events(path, body, signal) {
  const response = await fetched(path, { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Error(`The connection broke off (${error.message}).`);
    });
    if (done) throw new Error("The connection broke off before the answer ended.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

// A blank field is left to the server.
const number = (id) => ($(id).value.trim() === "" ? undefined : +$(id).value);

function conversation() {
  const system = $("system").value.trim();
  return system ? [{ role: "system", content: system }, ...history] : history;
}

async function chat(turn, signal) {
  const think = thought(turn);
  const answer = make("div", turn, "answer");
  let reasoning = "", content = "", usage = null, reason = null, due = null, dirty = { reasoning: false, content: false };
  const begun = performance.now();
  const seconds = () => ((performance.now() - begun) / 1000).toFixed(1);
  const show = () => {
    due = null;
    stick(() => {
      if (dirty.reasoning) think.show(reasoning);
      if (dirty.content) dress(answer, content);
    });
    dirty = { reasoning: false, content: false };
  };
  const body = {
    messages: conversation(), stream: true, stream_options: { include_usage: true },
    temperature: number("temperature"), max_tokens: number("limit"),
  };
  try {
    for await (const event of events("v1/chat/completions", body, signal)) {
      const choice = event.choices[0] ?? {}, delta = choice.delta ?? {};
      if (delta.reasoning) { reasoning += delta.reasoning; dirty.reasoning = true; }
      if (delta.content) {
        if (!content) think.end(`Thought for ${seconds()} s`);
        content += delta.content;
        dirty.content = true;
      }
      reason = choice.finish_reason ?? reason;
      usage = event.usage ?? usage;
      due ??= requestAnimationFrame(show);
    }
  } finally {
    if (due) cancelAnimationFrame(due);
    show();
    think.end(usage ? `Thought for ${counted(usage.reasoning_tokens, "token")}` : `Thought for ${seconds()} s, not to the end`);
    if (content) history.push({ role: "assistant", content, reasoning_content: reasoning });
  }
  const facts = [`${counted(usage?.completion_tokens ?? 0, "token")} in ${seconds()} s`];
  if (reason === "length") facts.push("cut at the token limit");
  if (!content) facts.push("the thought ended without an answer");
  make("div", turn, "facts", `${facts.join("; ")}.`);
  return content ? `Answer: ${content}` : "No answer.";
}

async function deepthink(turn, signal) {
  const body = {
    messages: conversation(), stream: true, traces: number("traces"), warmup: number("warmup"), window: number("window"),
    keep_fraction: number("keep"), consensus: number("consensus"), rolling: $("rolling").checked,
    temperature: number("temperature"), max_tokens: number("limit"),
  };
  const warmup = Math.min(body.warmup ?? 16, body.traces ?? 32);
  const panel = tracesPanel(turn, { window: body.window ?? 1, warmup });
  let result = null;
  try {
    for await (const event of events("v1/deepthink", body, signal)) {
      if (event.type === "result") result = event;
      stick(() => panel.hear(event));
    }
  } finally {
    if (panel.traces.length) panel.end(result ? "Vote" : "Broken off"); else panel.box.remove();
  }
  if (!result) throw new Error("The server ended without a vote.");
  stick(() => conclude(turn, panel, result));
  if (result.message?.content) history.push({ role: "assistant", content: result.message.content });
  return result.answer === null ? "No trace gave an answer." : `Vote: ${result.answer}, ${percent(result.share)} of the weight.`;
}

function conclude(turn, panel, result) {
  const { answer, share: part, majority, fallback, message, traces, stopped, tokens, seconds, trace_stats } = result;
  const plain = `plain majority: ${majority.answer ?? "none"} (${percent(majority.share)})`;
  const note = fallback ? "; nobody reached the threshold, so the majority decides" : "";
  panel.remark.textContent = answer === null ? "" : `${percent(part)} of the weight; ${plain}${note}`;
  if (message?.reasoning) {
    const think = thought(turn);
    think.show(message.reasoning);
    think.end(`The thought of trace ${message.trace + 1}, the surest behind this answer`);
  }
  dress(make("div", turn, "answer"), message?.content || "No trace gave an answer.");
  const voted = trace_stats.filter((t) => t.voted).length;
  const counts = `${counted(traces, "trace")}, ${stopped} stopped early, ${voted} voted`;
  make("div", turn, "facts", `${counts}; ${counted(tokens, "token")} in ${seconds.toFixed(1)} s.`);
}

// Stay at the end of the page while the reader is there; leave those alone who scrolled up.
function stick(change) {
  const page = document.scrollingElement;
  const near = page.scrollHeight - page.scrollTop - innerHeight < 120;
  change();
  if (near) page.scrollTop = page.scrollHeight;
}

function busy(on) {
  const held = document.activeElement;
  $("log").setAttribute("aria-busy", on);
  for (const id of ["send", "harder"]) $(id).hidden = on;
  $("stop").hidden = !on;
  $("clear").disabled = on;
  if (on && [$("send"), $("harder")].includes(held)) $("stop").focus();
  if (!on && [$("stop"), document.body].includes(held)) $("ask").focus();
}

async function ask(how) {
  const text = $("ask").value.trim();
  if (!text || running) return;
  running = new AbortController();
  $("ask").value = "";
  grow();
  $("hello").hidden = true;
  const before = history.length;
  history.push({ role: "user", content: text });
  make("div", $("log"), "turn user", text);
  const turn = make("article", $("log"), "turn");
  turn.setAttribute("aria-label", "Answer");
  busy(true);
  $("say").textContent = "Thinking";
  document.scrollingElement.scrollTop = document.scrollingElement.scrollHeight;
  try {
    $("say").textContent = await how(turn, running.signal);
  } catch (error) {
    const stopped = error.name === "AbortError";
    stick(() => make("div", turn, stopped ? "facts" : "failed", stopped ? "Stopped." : error.message));
    $("say").textContent = stopped ? "Stopped." : `Error: ${error.message}`;
    // a question without an answer is no part of the conversation: it comes back to be sent again
    if (history.length === before + 1) {
      history.pop();
      if (!stopped && !$("ask").value) { $("ask").value = text; grow(); }
    }
  } finally {
    running = null;
    busy(false);
    if (!$("keybox").hidden) $("key").focus();
  }
}

function wantKey(message) {
  $("keybox").hidden = false;
  $("key-words").textContent = $("key").value.trim() ? message : "This server asks for an API key.";
}

async function greet() {
  try {
    const { data: [card] } = await (await fetched("v1/models")).json();
    $("model").textContent = `${card.id} · ${grouped(card.max_model_len)} tokens of context`;
    const { keep_fraction, ...own } = card.deepconf ?? {};
    for (const [id, value] of Object.entries({ keep: keep_fraction, ...own })) if (value != null && $(id)) $(id).value = value;
    keep(() => sessionStorage, "h1r-key", $("key").value.trim());
    $("keybox").hidden = true;
    return true;
  } catch (error) {
    if ($("keybox").hidden) $("model").textContent = error.message;
    return false;
  }
}

// The box grows with the question, up to a third of the window.
function grow() {
  const box = $("ask");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight / 3)}px`;
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); ask(chat); });
$("harder").addEventListener("click", () => ask(deepthink));
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  if (running) return;
  history.length = 0;
  $("log").replaceChildren();
  $("hello").hidden = false;
  $("ask").focus();
});
$("ask").addEventListener("input", grow);
$("ask").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask(event.ctrlKey || event.metaKey ? deepthink : chat);
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
$("keyform").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await greet()) $("ask").focus(); else $("key").select();
});
$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
setTheme(THEMES.includes(kept(() => localStorage, "h1r-theme")) ? kept(() => localStorage, "h1r-theme") : "auto");
$("key").value = kept(() => sessionStorage, "h1r-key") ?? "";
greet();
