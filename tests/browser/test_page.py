"""The page at / in headless Chromium, against a real `h1r serve models/nano` that asks for a key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chromium import CONTROL, CURE, ENTER, ESCAPE, SHIFT, TAB, Browser, found, free_port, wait

pytestmark = [pytest.mark.browser, pytest.mark.skipif(found() is None, reason=CURE), pytest.mark.timeout(180)]

NANO = Path(__file__).parents[2] / "models" / "nano"
KEY = "a-key-of-the-page"
QUESTION = "What is 17 + 26?"
SUM = "What is 3 * 7 - 6 + 8?"
"""With a window of 24 its traces differ in confidence."""


class Server:
    """`h1r serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        keys = folder / "keys.txt"
        keys.write_text(KEY + "\n", encoding="utf-8")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        command = [sys.executable, "-m", "h1r", "serve", str(NANO), "--port", str(port), "--api-key-file", str(keys)]
        self._log = (folder / "log").open("w", encoding="utf-8")
        self.process = subprocess.Popen(command, stderr=self._log)

    def up(self) -> bool:
        assert self.process.poll() is None, Path(self._log.name).read_text(encoding="utf-8")[-2000:]
        try:
            return bool(urllib.request.urlopen(self.url + "health", timeout=5).status == 200)
        except OSError:
            return False

    def ask(self, path: str, body: Any = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)
        return str(urllib.request.urlopen(request, timeout=60).read().decode())

    def metric(self, name: str) -> float:
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.ask("metrics"), re.MULTILINE)
        assert values, f"{name} is not among the metrics"
        return sum(map(float, values))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    try:
        wait(made.up, 90, "h1r serve")
        yield made
    finally:
        made.process.terminate()
        made.process.wait(60)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture
def bare(server: Server, browser: Browser) -> Iterator[Browser]:
    """A page without a key, as a desktop with a light theme shows it."""
    look(browser, 1100, 900)
    browser.open(server.url)
    browser.run("sessionStorage.clear(); localStorage.clear()")
    browser.open(server.url)
    yield browser
    loaded = browser.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert all(name.startswith(server.url) for name in loaded)


@pytest.fixture
def page(server: Server, bare: Browser) -> Iterator[Browser]:
    """A page that knows its key, and that has nothing to complain of at the end."""
    bare.run("sessionStorage.setItem('h1r-key', arguments[0])", KEY)
    bare.open(server.url)
    bare.console()
    wait(lambda: "8,192" in text(bare, "#model"), what="the model's name")
    yield bare
    complaints = [line for line in bare.console() if "the server responded with a status of 400" not in line]
    assert not complaints, complaints


def look(browser: Browser, width: int, height: int, scheme: str = "light", mobile: bool = False) -> None:
    browser.devtools(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
    )
    browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def text(browser: Browser, css: str) -> str:
    return str(
        browser.run("const n = document.querySelector(arguments[0]); return n?.innerText ?? n?.textContent ?? ''", css)
    )


def texts(browser: Browser, css: str) -> list[str]:
    return list(browser.run("return [...document.querySelectorAll(arguments[0])].map((n) => n.innerText)", css))


def fill(browser: Browser, **fields: Any) -> None:
    script = "for (const [id, value] of Object.entries(arguments[0])) document.getElementById(id).value = value"
    browser.run(script, fields)


def idle(browser: Browser) -> None:
    wait(lambda: browser.run("return document.getElementById('stop').hidden"), 60, "the answer's end")


def focus(browser: Browser) -> str:
    return str(browser.run("const a = document.activeElement; return a.id || a.innerText || a.tagName"))


def hidden(browser: Browser, css: str) -> bool:
    return bool(browser.run("return !document.querySelector(arguments[0])?.checkVisibility()", css))


def think(browser: Browser, **fields: Any) -> None:
    fill(
        browser, **{"temperature": 1.3, "traces": 32, "warmup": 8, "keep": 0.1, "window": 24, "consensus": ""} | fields
    )
    browser.press(SUM)
    browser.press(ENTER, held=CONTROL)


def test_a_key_is_asked_for_and_a_wrong_one_is_named(bare: Browser):
    wait(lambda: not hidden(bare, "#keybox"), what="the key's field")
    assert "asks for an API key" in text(bare, "#key-words")
    bare.click("#key")
    bare.press("not-the-right-key", ENTER)
    wait(lambda: "the API key is missing or wrong" in text(bare, "#key-words"), what="the refusal")
    # a question asked all the same gets the words of the server, and comes back to be sent again
    bare.click("#ask")
    bare.press(QUESTION, ENTER)
    wait(lambda: "the API key is missing or wrong" in text(bare, ".failed"), what="the failed turn")
    idle(bare)
    assert bare.run("return document.getElementById('ask').value") == QUESTION and focus(bare) == "key"
    fill(bare, key="")
    bare.press(KEY, ENTER)
    wait(lambda: hidden(bare, "#keybox"), what="the right key")
    assert "nano" in text(bare, "#model") and focus(bare) == "ask"
    bare.press(ENTER)
    idle(bare)
    assert len(texts(bare, ".answer .prose")) == 1
    bare.console()


def test_a_question_streams_its_thought_and_its_answer(server: Server, page: Browser):
    asked = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    whole = json.loads(server.ask("v1/chat/completions", asked))
    message, usage = whole["choices"][0]["message"], whole["usage"]
    fill(page, temperature=0)
    page.run(
        "window.seen = []; new MutationObserver(() => {"
        "  const t = document.querySelector('.thought-text')?.textContent.length ?? 0;"
        "  if (t && t !== seen.at(-1)?.[0]) seen.push([t, document.querySelector('.answer')?.textContent.length ?? 0]);"
        "}).observe(document.getElementById('log'), { subtree: true, childList: true, characterData: true })"
    )
    page.press(QUESTION, ENTER)
    idle(page)
    grown = [thought for thought, answer in page.run("return seen") if not answer]
    assert len(grown) >= 3 and grown == sorted(grown), "the thought did not grow before the answer"
    assert hidden(page, ".thought-text"), "the thought is folded"
    page.click(".thought summary")
    assert text(page, ".thought-text").strip() == message["reasoning"].strip()
    assert text(page, ".thought summary") == f"Thought for {usage['reasoning_tokens']} tokens"
    assert text(page, ".answer") == re.sub(r"\\boxed\{(.*?)\}", r"\1", message["content"]).strip()
    assert f"{usage['completion_tokens']} tokens in" in text(page, ".facts")
    assert page.run("return document.getElementById('say').textContent").startswith("Answer: ")
    page.click("#ask")
    page.press("And 2 + 2?", ENTER)
    idle(page)
    assert len(texts(page, ".turn.user")) == 2
    page.click("#clear")
    assert not texts(page, ".turn") and not hidden(page, "#hello") and focus(page) == "ask"


def test_think_harder_shows_traces_threshold_vote_and_tokens(page: Browser):
    page.run(
        "window.seen = new Set(); new MutationObserver(() => {"
        "  for (const n of document.querySelectorAll('.one')) seen.add(n.getAttribute('class').split(' ')[1]);"
        "  if (document.querySelector('.tally-key')?.innerText.includes('Vote forming')) seen.add('forming');"
        "}).observe(document.getElementById('log'), { subtree: true, childList: true, attributes: true })"
    )
    # so small a share puts the threshold above most of the warm-up: many of the others are stopped
    think(page)
    idle(page)
    assert {"run", "kept", "cut", "forming"} <= set(page.run("return [...seen]"))
    said = re.search(r"(\d+) traces, (\d+) stopped early, (\d+) voted; ([\d,]+) tokens", text(page, ".turn > .facts"))
    assert said, text(page, ".turn > .facts")
    traces, stopped, voted, spent = (int(n.replace(",", "")) for n in said.groups())
    assert traces == 32 == len(texts(page, ".one")) and 0 < stopped < 24 and voted >= 1
    assert len(texts(page, ".one.cut")) == stopped and len(texts(page, ".one.kept:not(.below)")) == voted
    assert page.run("return getComputedStyle(document.querySelector('.one.cut polyline')).strokeDasharray") != "none"
    # every number beside every other
    page.click(".trace-list summary")
    rows = page.run(
        "return [...document.querySelectorAll('.trace-list tbody tr')].map((r) => [...r.cells].map((c) => c.innerText))"
    )
    assert sum(int(row[3]) for row in rows) == spent
    assert sum(row[1] == "stopped: low confidence" for row in rows) == stopped
    assert sum(row[1].endswith("voted") for row in rows) == voted
    bar = float(text(page, ".threshold-words").removeprefix("threshold "))
    assert all((float(row[4]) >= bar - 0.006) == ("voted" in row[1]) for row in rows if row[1].startswith("finished"))
    finished = [row[2] for row in rows if row[2]]
    for row in page.run(
        "return [...document.querySelectorAll('.tally-row')].map((r) => [...r.children].map((c) => c.innerText))"
    ):
        assert row[2] == f"{finished.count(row[0])} of {len(finished)}"
    shares = [int(s.removesuffix("\u00a0%")) for s in texts(page, ".share.vote")]
    assert abs(sum(shares) - 100) <= len(shares)
    assert texts(page, ".tally-answer")[0] == text(page, ".verdict-answer") and "plain majority: " in text(
        page, ".verdict"
    )
    told = re.fullmatch(r"([\d,]+) tokens spent about ([\d,]+) saved .*", " ".join(texts(page, ".spend-words > span")))
    assert told and int(told[1].replace(",", "")) == spent and int(told[2].replace(",", "")) > 0
    assert page.run("return document.getElementById('say').textContent").startswith("Vote: ")


def test_stop_by_key_and_by_button_ends_the_work(server: Server, page: Browser):
    for stop in (lambda: page.press(ESCAPE), lambda: page.click("#stop")):
        before = server.metric("vllm:generation_tokens_total")
        think(page, traces=1024, warmup=1024, keep=1)
        wait(lambda: texts(page, ".turn:last-child .one"), what="the first lines")
        stop()
        idle(page)
        wait(lambda: server.metric("vllm:num_requests_running") == 0, 10, "the engine's end")
        assert text(page, ".turn:last-child > .facts") == "Stopped."
        assert text(page, ".turn:last-child .verdict").startswith("Broken off") and focus(page) == "ask"
        assert server.metric("vllm:generation_tokens_total") == before, "it ran to its end all the same"
    # a question that was stopped is no part of what follows
    page.run(
        "const real = fetch; window.bodies = [];"
        "window.fetch = (path, options) => { bodies.push(options.body ?? ''); return real(path, options); }"
    )
    page.press(QUESTION, ENTER)
    idle(page)
    assert json.loads(page.run("return bodies[0]"))["messages"] == [{"role": "user", "content": QUESTION}]


def test_errors_are_shown_in_the_words_of_the_server(page: Browser):
    for field, value in (("traces", 1), ("keep", 7), ("temperature", -1)):
        think(page, **{field: value})
        idle(page)
        assert {"keep": "keep_fraction"}.get(field, field) in text(page, ".turn:last-child .failed")
        assert page.run("return document.getElementById('ask').value") == SUM
        assert not texts(page, ".think"), "what never began is not drawn"
        fill(page, ask="")
    page.run("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    page.press(QUESTION, ENTER)
    idle(page)
    assert "The server cannot be reached" in text(page, ".turn:last-child .failed")
    # a connection that ends without [DONE] is an error, and what had come stays
    page.run(
        """window.fetch = async () => new Response('data: {"choices": [{"delta": {"content": "Half an"}}]}\\n\\n')"""
    )
    fill(page, ask="")
    page.press(QUESTION, ENTER)
    idle(page)
    assert text(page, ".turn:last-child .answer") == "Half an"
    assert "before the answer ended" in text(page, ".turn:last-child .failed")


def test_model_text_never_becomes_markup(page: Browser):
    page.run(
        r"""window.fetch = async () => new Response('data: ' + JSON.stringify({ choices: [{ delta: { reasoning: '<b>a</b>',
        content: '<img src=x onerror=window.bad=1> **so** `x<y`\n```py\n<i>1</i>\n```\nso \\boxed{\\frac{1}{2}}' } }] })
        + '\n\ndata: [DONE]\n\n')"""
    )
    page.press(QUESTION, ENTER)
    idle(page)
    assert page.run("return document.querySelectorAll('#log img, #log b, .answer pre i').length") == 0
    assert texts(page, ".answer strong") == ["so", "\\frac{1}{2}"] and texts(page, ".answer pre") == ["<i>1</i>"]
    assert texts(page, ".answer .prose code") == ["x<y"]


CONTRAST = """
const lum = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const parse = (c) => (c.match(/[\\d.]+/g) ?? []).map(Number);
const ground = (n) => { for (; n; n = n.parentElement) { const c = parse(getComputedStyle(n).backgroundColor);
  if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
const low = [];
for (const node of document.querySelectorAll('body *')) {
  const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim()) || node.matches('input, textarea');
  if (!own || !node.checkVisibility() || node.matches('script, style, .unseen, .skip, :disabled')) continue;
  const style = getComputedStyle(node), fore = parse(node instanceof SVGElement ? style.fill : style.color), back = ground(node);
  let opacity = 1; for (let n = node; n; n = n.parentElement) opacity *= +getComputedStyle(n).opacity;
  const seen = fore.slice(0, 3).map((v, i) => v * opacity + back[i] * (1 - opacity));
  const [a, b] = [lum(seen), lum(back)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${node.outerHTML.slice(0, 80)}`);
}
return low;
"""


def test_dark_and_light_are_readable(page: Browser):
    think(page, traces=16)
    idle(page)
    think(page, traces=1)
    idle(page)
    page.run("for (const fold of document.querySelectorAll('details')) fold.open = true")
    grounds = {}
    for scheme in ("light", "dark"):
        look(page, 1100, 900, scheme)
        assert page.run(CONTRAST) == []
        grounds[scheme] = page.run("return getComputedStyle(document.body).backgroundColor")
    assert grounds["light"] != grounds["dark"]
    # the button goes round auto, light, dark whatever the system says; a reload remembers
    page.run("scrollTo(0, 0)")
    for name, shown in (("light", "light"), ("dark", "dark"), ("auto", "dark"), ("light", "light")):
        page.click("#theme")
        assert text(page, "#theme") == f"Theme: {name}"
        assert page.run("return getComputedStyle(document.body).backgroundColor") == grounds[shown]
    page.run("location.reload()")
    wait(lambda: text(page, "#theme") == "Theme: light", what="the theme remembered")


def test_nothing_is_wider_than_a_phone(page: Browser):
    look(page, 360, 740, "dark", mobile=True)
    widths = "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    assert page.run(widths) == [360] * 3
    think(page)
    wait(lambda: texts(page, ".one"), what="the first lines")
    assert page.run(widths) == [360] * 3
    idle(page)
    page.press("w" * 300, ENTER)
    idle(page)
    for summary in (".settings summary", ".thought summary", ".trace-list summary"):
        page.run("document.querySelector(arguments[0]).parentElement.open = true", summary)
    page.run("document.getElementById('keybox').hidden = false")
    assert page.run(widths) == [360] * 3
    outside = page.run(
        "return [...document.querySelectorAll('body *')]"
        ".filter((n) => !n.closest('.scroll, pre, .unseen, .skip, summary, script'))"
        ".filter((n) => n.getBoundingClientRect().right > 360.5).map((n) => n.outerHTML.slice(0, 80))"
    )
    assert outside == []
    small = page.run(
        "return [...document.querySelectorAll('button')].filter((b) => b.checkVisibility()"
        " && b.getBoundingClientRect().height < 36).map((b) => b.id)"
    )
    assert small == [], "too small for a thumb"


def test_the_keyboard_reaches_everything_in_order(page: Browser):
    assert focus(page) == "ask"
    order = []
    for held in (SHIFT, SHIFT, SHIFT, "", "", "", "", "", ""):
        page.press(TAB, held=held)
        order.append(focus(page))
    assert order == ["theme", "clear", "Skip to the question", "clear", "theme", "ask", "Settings", "harder", "send"]
    page.press(TAB, TAB, held=SHIFT)
    page.press(ENTER)
    page.press(TAB)
    assert focus(page) == "system" and not hidden(page, "#system"), "Enter opens the settings"
    unnamed = page.run(
        "return [...document.querySelectorAll('input, textarea, button')].filter((n) => !n.labels?.length && !n.innerText"
        " && !n.hidden).map((n) => n.outerHTML)"
    )
    assert unnamed == []
    page.run("document.querySelector('.settings').open = false; document.getElementById('ask').focus()")
    page.press("one")
    page.press(ENTER, held=SHIFT)
    page.press("two")
    assert page.run("return document.getElementById('ask').value") == "one\ntwo" and not texts(page, ".turn")
    # from a button, work moves the focus to Stop, and its end back to the question
    fill(page, ask=SUM, traces=256, warmup=256, temperature=1.3)
    page.press(TAB, TAB)
    assert focus(page) == "harder"
    page.press(ENTER)
    assert focus(page) == "stop"
    wait(lambda: texts(page, ".one"), what="the first lines")
    page.press(ENTER)
    idle(page)
    assert focus(page) == "ask" and text(page, ".turn > .facts") == "Stopped."
