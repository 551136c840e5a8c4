// Nodes, numbers and answers as the page shows them. Model text never becomes markup: every piece is a text node.
const $ = (id) => document.getElementById(id);

function make(kind, parent, className, text) {
  const node = document.createElement(kind);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function draw(kind, parent, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}

const grouped = (n) => Math.round(n).toLocaleString("en");
const counted = (n, noun) => `${grouped(n)} ${noun}${n === 1 ? "" : "s"}`;
const percent = (share) => `${(100 * share).toFixed(0)}\u00a0%`;

// The answer's usual dress: code fences, `code`, **bold** and \boxed{}.
function dress(box, text) {
  box.replaceChildren();
  text.split(/^```[^\n]*\n?/m).forEach((part, i) => {
    if (i % 2) { make("code", make("pre", box), "", part.replace(/\n$/, "")); return; }
    const prose = i ? part.replace(/^\n/, "") : part;
    if (prose.trim()) inline(make("div", box, "prose"), prose);
  });
}

function inline(box, text) {
  const marked = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|\$?\\boxed\{((?:[^{}\n]|\{[^{}\n]*\})*)\}\$?/g;
  let from = 0;
  for (const found of text.matchAll(marked)) {
    box.append(text.slice(from, found.index));
    const [whole, code, bold, boxed] = found;
    make(code !== undefined ? "code" : "strong", box, boxed !== undefined ? "boxed" : "", code ?? bold ?? boxed);
    from = found.index + whole.length;
  }
  box.append(text.slice(from));
}

// A folded thought whose last words show in the summary while it grows.
function thought(turn) {
  const details = make("details", turn, "thought");
  const summary = make("summary", details);
  const title = make("span", summary, "busy", "Thinking");
  const tail = make("span", summary, "tail");
  const text = make("div", details, "thought-text");
  text.tabIndex = 0;
  text.setAttribute("role", "region");
  text.setAttribute("aria-label", "Thought");
  tail.setAttribute("aria-hidden", "true");
  details.hidden = true;
  let over = false;
  return {
    show(whole) {
      details.hidden = false;
      text.textContent = whole.trim();
      text.scrollTop = text.scrollHeight;
      tail.textContent = over ? "" : whole.trim().slice(-90).replace(/\s+/g, " ");
    },
    end(words) { over = true; title.className = ""; title.textContent = words; tail.textContent = ""; },
  };
}
