// What "think harder" shows: one confidence line per trace, the threshold, the vote as it forms, tokens spent and saved.
const HIGH = 230, EDGE = { left: 34, right: 14, top: 12, bottom: 26 };
const ENDED_WELL = ["stop", "length"];
const COLOURS = 6;
const KEY = {
  run: "running", kept: "finished, coloured by answer", below: "finished below the threshold", cut: "stopped early",
  bar: "threshold",
};
const CROSS = "M-3.5,-3.5 3.5,3.5 M-3.5,3.5 3.5,-3.5", DOT = "M-2.5,0 a2.5,2.5 0 1,0 5,0 a2.5,2.5 0 1,0 -5,0";
const REASONS = {
  stop: "finished", length: "cut at the token limit", low_confidence: "stopped: low confidence", consensus: "stopped: consensus",
  abort: "stopped",
};

function tracesPanel(turn, settings) {
  const box = make("section", turn, "think");
  box.setAttribute("aria-label", "Parallel thinking");
  const head = make("div", box, "verdict");
  const state = make("span", head, "busy", "Thinking in parallel");
  const said = make("strong", head, "verdict-answer"), remark = make("span", head, "soft");
  const view = {
    box, state, said, remark, settings, traces: [], votes: [], majority: [], colours: new Map(), bar: null, result: null,
    chart: chartIn(box), tally: make("div", box, "tally"), spend: spendIn(box), list: listIn(box), due: null, cost: 0,
  };
  view.hear = (event) => { HEAR[event.type]?.(view, event); later(view); };
  new ResizeObserver(() => later(view)).observe(view.chart.svg);
  view.end = (words) => { state.className = ""; state.textContent = words; show(view); };
  return view;
}

function chartIn(box) {
  const figure = make("figure", box, "lines");
  const svg = draw("svg", figure, { height: HIGH, role: "img", "aria-label": "Confidence of every trace" });
  const caption = make("figcaption", figure, "key");
  for (const [name, words] of Object.entries(KEY)) {
    const item = make("span", caption, "key-item");
    make("i", item, `stroke ${name}`);
    item.append(words);
  }
  return { svg, grid: draw("g", svg, {}), lines: draw("g", svg, {}), bar: draw("g", svg, {}) };
}

function spendIn(box) {
  const node = make("div", box, "spend");
  const words = make("div", node, "spend-words"), track = make("div", node, "spend-track");
  track.setAttribute("aria-hidden", "true");
  return { words, spent: make("i", track, "spent"), saved: make("i", track, "saved") };
}

function listIn(box) {
  const details = make("details", box, "trace-list");
  const title = make("summary", details, "", "Every trace");
  const scroll = make("div", details, "scroll");
  const table = make("table", scroll);
  const row = make("tr", make("thead", table));
  for (const name of ["Trace", "State", "Answer", "Tokens", "Lowest"]) {
    make("th", row, ["State", "Answer"].includes(name) ? "" : "number", name).scope = "col";
  }
  details.addEventListener("toggle", () => details.dispatchEvent(new Event("fill")));
  return { details, title, body: make("tbody", table) };
}

const HEAR = {
  started(view, event) {
    for (let i = event.first; i < event.first + event.traces; i++) {
      const warm = i < view.settings.warmup;
      view.traces[i] = { index: i, warm, points: [], tokens: 0, stop: null, answer: null, lowest: null, node: null };
    }
  },
  confidence(view, event) {
    const trace = view.traces[event.index];
    trace.tokens = event.tokens;
    trace.points.push([event.tokens, event.mean]);
  },
  bar(view, event) { view.bar = event.bar; },
  finished(view, { index, stop, answer, tokens, lowest }) {
    Object.assign(view.traces[index], { stop, answer, tokens, lowest });
  },
  vote(view, event) { view.votes = event.votes; view.majority = event.majority; colour(view); },
  result(view, event) {
    view.result = event;
    view.votes = event.votes;
    view.majority = event.majority.votes;
    for (const stats of event.trace_stats) Object.assign(view.traces[stats.index], { voted: stats.voted, lowest: stats.lowest });
    colour(view);
  },
};

// An answer keeps its colour from the moment it first appears; the seventh and further ones share a quiet one.
function colour(view) {
  for (const { value } of [...view.votes, ...view.majority]) {
    if (!view.colours.has(value)) view.colours.set(value, view.colours.size < COLOURS ? `c${view.colours.size}` : "mute");
  }
}

// Many long traces take long to draw: the page draws a fifth of the time at most.
function later(view) {
  view.due ??= setTimeout(() => show(view), Math.min(1000, 40 + 4 * view.cost));
}

function show(view) {
  clearTimeout(view.due);
  const begun = performance.now();
  showLines(view);
  showTally(view);
  showSpend(view);
  showList(view);
  view.due = null;
  view.cost = performance.now() - begun;
}

const place = (trace) => {
  if (!trace.stop) return "run";
  if (!ENDED_WELL.includes(trace.stop)) return "cut";
  return "kept";
};

function below(view, trace) {
  return trace.voted === undefined ? view.bar !== null && trace.lowest !== null && trace.lowest < view.bar : !trace.voted;
}

function showLines(view) {
  const { svg, grid, lines, bar } = view.chart;
  const drawn = view.traces.filter((t) => t.points.length);
  if (!drawn.length) return;
  const wide = Math.max(260, svg.clientWidth);
  svg.setAttribute("viewBox", `0 0 ${wide} ${HIGH}`);
  const values = [...drawn.flatMap((t) => t.points.map(([, v]) => v)), ...(view.bar === null ? [] : [view.bar])];
  let low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  const room = Math.max((high - low) * 0.08, 0.25);
  [low, high] = [Math.max(0, low - room), high + room];
  const longest = Math.max(...view.traces.map((t) => t.tokens), 8);
  const x = (t) => EDGE.left + ((wide - EDGE.left - EDGE.right) * t) / longest;
  const y = (v) => HIGH - EDGE.bottom - ((HIGH - EDGE.top - EDGE.bottom) * (v - low)) / (high - low);
  axes(grid, x, y, { low, high, longest, wide });
  for (const trace of drawn) {
    trace.node ??= lineOf(lines, trace);
    const kind = place(trace);
    const tint = kind === "kept" && trace.answer !== null ? view.colours.get(trace.answer) ?? "mute" : "mute";
    trace.node.group.setAttribute("class", `one ${kind} ${tint}${kind === "kept" && below(view, trace) ? " below" : ""}`);
    const [early, full] = byWindow(view, trace);
    for (const [part, points] of [["early", early], ["line", full]]) {
      trace.node[part].setAttribute("points", points.map(([t, v]) => `${x(t).toFixed(1)},${y(v).toFixed(1)}`).join(" "));
    }
    const [t, v] = trace.points.at(-1);
    trace.node.end.setAttribute("transform", `translate(${x(t).toFixed(1)},${y(v).toFixed(1)})`);
    trace.node.end.setAttribute("d", kind === "cut" ? CROSS : DOT);
  }
  bar.replaceChildren();
  if (view.bar !== null) {
    const at = y(view.bar), right = wide - EDGE.right;
    draw("line", bar, { class: "threshold", x1: EDGE.left, x2: right, y1: at, y2: at });
    const words = draw("text", bar, { class: "threshold-words", x: right, y: at + (at > 40 ? -6 : 16) });
    words.textContent = `threshold ${view.bar.toFixed(2)}`;
  }
  const ended = view.traces.filter((t) => t.stop), cut = ended.filter((t) => place(t) === "cut");
  const counts = `${ended.length - cut.length} finished, ${cut.length} stopped early`;
  const threshold = view.bar === null ? "" : `; threshold ${view.bar.toFixed(2)}`;
  svg.setAttribute("aria-label", `Confidence of ${counted(view.traces.length, "trace")}: ${counts}${threshold}`);
}

// [points up to the first full window, points from there on]: the threshold is about full windows alone.
function byWindow(view, trace) {
  const at = trace.points.findIndex(([t]) => t >= view.settings.window);
  return at < 0 ? [trace.points, []] : [trace.points.slice(0, at + 1), trace.points.slice(at)];
}

function lineOf(lines, trace) {
  const group = draw("g", lines, {});
  const title = draw("title", group, {});
  title.textContent = `Trace ${trace.index + 1}`;
  const early = draw("polyline", group, { class: "early", points: "" }), line = draw("polyline", group, { points: "" });
  return { group, early, line, end: draw("path", group, {}) };
}

function axes(grid, x, y, { low, high, longest, wide }) {
  grid.replaceChildren();
  for (const v of ticks(low, high, 4)) {
    draw("line", grid, { class: "grid", x1: EDGE.left, x2: wide - EDGE.right, y1: y(v), y2: y(v) });
    draw("text", grid, { class: "tick y", x: EDGE.left - 8, y: y(v) + 4 }).textContent = `${+v.toFixed(2)}`;
  }
  for (const t of ticks(0, longest, wide < 500 ? 3 : 5).slice(1)) {
    draw("text", grid, { class: "tick x", x: Math.min(x(t), wide - 24), y: HIGH - 8 }).textContent = grouped(t);
  }
  draw("text", grid, { x: EDGE.left, y: HIGH - 8 }).textContent = "tokens";
}

function ticks(low, high, about) {
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(v);
  return out;
}

// Per answer: its share of the weighted vote, and of the plain majority below it.
function showTally(view) {
  const whole = (list, key) => list.reduce((sum, v) => sum + v[key], 0) || 1;
  const weight = whole(view.votes, "weight"), count = whole(view.majority, "count");
  const plain = new Map(view.majority.map((v) => [v.value, v.count]));
  const heavy = new Map(view.votes.map((v) => [v.value, v.weight]));
  const answers = [...new Set([...heavy.keys(), ...plain.keys()])];
  view.tally.replaceChildren();
  if (!answers.length) { make("p", view.tally, "soft", "No trace has answered yet."); return; }
  const key = make("div", view.tally, "tally-key");
  const vote = view.result ? "Vote by confidence" : "Vote forming";
  for (const words of ["Answer", vote, "Plain majority"]) make("span", key, "", words);
  for (const answer of answers.slice(0, 6)) {
    const row = make("div", view.tally, `tally-row ${view.colours.get(answer) ?? "mute"}`);
    make("span", row, "tally-answer", answer).title = answer;
    share(row, "vote", (heavy.get(answer) ?? 0) / weight, percent((heavy.get(answer) ?? 0) / weight));
    share(row, "plain", (plain.get(answer) ?? 0) / count, `${plain.get(answer) ?? 0} of ${count}`);
  }
  if (answers.length > 6) make("p", view.tally, "soft", `and ${counted(answers.length - 6, "answer")} more`);
  view.said.textContent = view.result ? view.result.answer ?? "no answer" : view.votes[0]?.value ?? "";
  if (view.result) return;
  view.remark.textContent = view.votes.length ? `${percent(view.votes[0].weight / weight)} of the vote so far` : "";
}

function share(row, kind, part, words) {
  const cell = make("span", row, `share ${kind}`), track = make("span", cell, "share-track");
  make("i", track).style.width = `${Math.max(0, Math.min(100, 100 * part))}%`;
  make("span", cell, "share-words", words);
}

// As search.deepconf estimates it: an ended trace would have run on as the finished ones of at least its length did.
function savedSoFar(view) {
  const full = view.traces.filter((t) => place(t) === "kept").map((t) => t.tokens);
  return view.traces.filter((t) => place(t) === "cut").reduce((sum, { tokens }) => {
    const longer = full.filter((n) => n >= tokens);
    return sum + (longer.length ? longer.reduce((a, n) => a + n - tokens, 0) / longer.length : 0);
  }, 0);
}

function showSpend(view) {
  const spent = view.result?.tokens ?? view.traces.reduce((sum, t) => sum + t.tokens, 0);
  const saved = view.result?.saved_tokens ?? savedSoFar(view), whole = spent + saved || 1;
  view.spend.words.replaceChildren();
  const words = { spent: `${grouped(spent)} tokens spent`, saved: `about ${grouped(saved)} saved (${percent(saved / whole)})` };
  for (const name of ["spent", "saved"]) {
    const item = make("span", view.spend.words, name);
    make("i", item);
    item.append(words[name]);
  }
  view.spend.spent.style.width = `${(100 * spent) / whole}%`;
  view.spend.saved.style.width = `${(100 * saved) / whole}%`;
}

function stateOf(view, trace) {
  if (!trace.stop) return trace.warm ? "warm-up, running" : "running";
  const words = REASONS[trace.stop] ?? trace.stop;
  if (place(trace) === "cut") return words;
  return words + (trace.warm ? ", warm-up" : "") + (below(view, trace) ? ", below the threshold" : trace.voted ? ", voted" : "");
}

function showList(view) {
  const { details, title, body } = view.list;
  const ended = view.traces.filter((t) => t.stop).length;
  title.textContent = `Every trace (${ended} of ${view.traces.length} ended)`;
  if (!details.dataset.ready) { details.dataset.ready = "1"; details.addEventListener("fill", () => showList(view)); }
  if (!details.open) return;
  body.replaceChildren();
  for (const trace of view.traces) {
    const row = make("tr", body, place(trace) === "cut" ? "cut" : "");
    make("td", row, "number", `${trace.index + 1}`);
    make("td", row, "", stateOf(view, trace));
    make("td", row, "mono", trace.answer ?? "");
    make("td", row, "number", grouped(trace.tokens));
    make("td", row, "number", trace.lowest === null ? "" : trace.lowest.toFixed(2));
  }
}
