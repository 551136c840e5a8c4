"""LiveCodeBench: the window, the prompt to the byte, hidden tests that may not name a class, both graders."""

import base64
import json
import os
import pickle
import zlib

import pytest

from h1r.errors import ConfigError, DataError
from h1r.evals import SUITES, protocol, scoring
from h1r.evals.suites import livecodebench as lcb
from h1r.types import Prompt, Score, StopReason, Trace

SUITE = SUITES["livecodebench"]


def packed(cases):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def row(name, date, *, starter="", func=None, public=(), hidden=(), difficulty="easy"):
    return {
        "question_title": name, "question_content": f"Do {name}.", "platform": "atcoder", "question_id": name,
        "contest_date": f"{date}T00:00:00", "starter_code": starter, "difficulty": difficulty,
        "public_test_cases": json.dumps(list(public)), "private_test_cases": packed(list(hidden)),
        "metadata": json.dumps({"func_name": func} if func else {}),
    }  # fmt: skip


def case(given, out):
    return {"input": given, "output": out, "testtype": "stdin"}


@pytest.fixture
def folder(tmp_path):
    files = {
        "test.jsonl": [row("abc311_c", "2023-07-22"), row("a1", "2023-08-01")],
        "test5.jsonl": [row("e1", "2024-10-05"), row("e2", "2025-01-05", difficulty="hard")],
        "test6.jsonl": [
            row("f1", "2025-02-01", public=[case("1\n", "2\n")], hidden=[case("5\n", "6\n"), case("7\n", "8\n")]),
            row("f2", "2025-04-06", starter="class Solution:\n    def add(self, a, b):", func="add",
                public=[case("1\n2", "3")], hidden=[case("[1]\n[2]", "[1, 2]")]),
        ],
    }  # fmt: skip
    (tmp_path / "livecodebench").mkdir()
    for name, rows in files.items():
        (tmp_path / "livecodebench" / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def names(problems):
    return [p.id.removeprefix("livecodebench-") for p in problems]


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, ["abc311_c", "a1", "e1", "e2", "f1", "f2"]),
        ({"version": "v6"}, ["f1", "f2"]),
        ({"version": "v5-v6"}, ["e1", "e2", "f1", "f2"]),
        ({"version": "release_v5"}, ["abc311_c", "a1", "e1", "e2"]),
        ({"start": "2024-10-05", "end": "2025-02-01"}, ["e1", "e2", "f1"]),
        ({"errata": "exclude", "version": "v1"}, ["a1"]),
    ],
)
def test_windows(folder, options, want):
    assert names(SUITE.load(folder, options=options)) == want


def test_the_window_is_said_with_its_count(folder):
    found = SUITE.load(folder, options={"version": "v6"})
    assert lcb.about(found, {"version": "v6"}) == "version v6, contests 2025-02-01 to 2025-04-06, 2 problems"
    assert [(p.domain, p.difficulty, p.meta["fn_name"]) for p in found] == [
        ("atcoder", 0.0, None),
        ("atcoder", 0.0, "add"),
    ]
    with pytest.raises(DataError, match="widen"):
        SUITE.load(folder, options={"start": "2030-01-01"})
    with pytest.raises(ConfigError, match="release_v6"):
        SUITE.load(folder, options={"version": "six"})
    with pytest.raises(ConfigError, match="no option 'window'"):
        SUITE.load(folder, options={"window": "v6"})


def test_the_published_prompt_to_the_byte(folder):
    plain, starter = SUITE.load(folder, options={"version": "v6"})
    assert plain.messages[0]["content"] == (
        "### Question:\nDo f1.\n\n### Format: Read the inputs from stdin solve the problem and write the answer to stdout "
        "(do not directly test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when the "
        "python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE "
        "HERE\n```\n\n### Answer: (use the provided format with backticks)\n\n"
    )
    assert starter.messages[0]["content"].endswith(
        "within delimiters.\n```python\nclass Solution:\n    def add(self, a, b):\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )
    official = protocol.read("official").suites["livecodebench"].prompt
    assert SUITE.load(folder, prompt=official, options={"version": "v6"})[0].messages == plain.messages


def test_hidden_tests_join_at_grading_and_only_there(folder):
    plain, starter = SUITE.load(folder, options={"version": "v6"})
    assert plain.tests == ({"input": "1\n", "expected": "2\n"},)
    assert [t["expected"] for t in lcb.with_hidden(plain).tests] == ["2\n", "6\n", "8\n"]
    assert lcb.with_hidden(starter).tests[1] == {"input": "[1]\n[2]", "expected": "[1, 2]"}
    seen = []
    scoring.scorer(lambda p, t: seen.append(len(p.tests)) or Score(1.0, ""), protocol.Terms())(plain, trace("x"))
    assert seen == [3]
    (folder / "livecodebench" / "test6.jsonl").write_text("{}\n" * 9)
    with pytest.raises(DataError, match="not where they were"):
        lcb.with_hidden(plain)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/h1r-evil",))


@pytest.mark.parametrize("value", [Evil(), ["a"], {"a": 1}, b"[]", 7])
def test_a_pickle_that_is_no_string_is_refused(value):
    text = base64.b64encode(zlib.compress(pickle.dumps(value))).decode()
    with pytest.raises(DataError, match="cannot be read"):
        lcb.hidden_tests(text, "f.jsonl")
    assert not os.path.exists("/tmp/h1r-evil")


def test_a_bomb_is_cut(monkeypatch):
    monkeypatch.setattr(lcb, "MAX_TESTS", 1 << 20)
    with pytest.raises(DataError, match="more than 1 MiB"):
        lcb.hidden_tests(base64.b64encode(zlib.compress(b"0" * (8 << 20))).decode(), "f.jsonl")


def trace(text):
    return Trace(prompt=Prompt(), token_ids=(1,), stop=StopReason.STOP, text=text, content=text)


def test_both_graders_run_all_tests(folder):
    from h1r.verify import score

    plain, starter = SUITE.load(folder, options={"version": "v6"})
    good, half = "```python\nprint(int(input()) + 1)\n```", "```python\ninput(); print(2)\n```"
    call = "```python\nclass Solution:\n    def add(self, a, b):\n        return a + b\n```"
    for grader in ("fixed", "official"):
        graded = scoring.scorer(score, protocol.Terms(grader=grader))
        found = [graded(p, trace(t)) for p, t in ((plain, good), (plain, half), (starter, call))]
        if found[0].value is None:
            pytest.skip(f"no sandbox here: {found[0].why}")
        assert [f.value for f in found] == [1.0, 0.0, 1.0]
        assert found[0].detail["tests"] == 3 and found[0].detail["grader"] == grader


def test_problems_survive_their_file(folder, tmp_path):
    from h1r import data

    problems = SUITE.load(folder, options={"version": "v6"})
    data.write(tmp_path / "p.jsonl", problems)
    again = list(data.read(tmp_path / "p.jsonl"))
    assert [(p.id, p.messages, p.difficulty, dict(p.meta)) for p in again] == [
        (p.id, p.messages, p.difficulty, dict(p.meta)) for p in problems
    ]
    assert [len(lcb.with_hidden(p).tests) for p in again] == [3, 2]


def test_a_sandbox_that_breaks_for_one_grader_leaves_that_figure_unscored(folder, monkeypatch):
    from h1r.evals.results import Item, second_verdict

    plain, _ = SUITE.load(folder, options={"version": "v6"})
    broken = {"official": Score(1.0, ""), "fixed": Score(None, "broke")}
    monkeypatch.setattr(scoring.code, "score", lambda problem, trace, sandbox, grader: broken[grader])
    found = scoring.scorer(lambda p, t: Score(0.0, ""), protocol.Terms(grader="official"))(plain, trace("x"))
    assert found.value == 1.0 and found.detail["fixed"] == {"tests": None}
    item = Item(
        problem="p", sample=0, key="k", value=1.0, why="", outcome="correct", tokens=1, stop="stop", detail=found.detail
    )
    (fixed,), (official,) = second_verdict([item], "fixed"), second_verdict([item], "official")
    assert (fixed.value, fixed.outcome) == (None, "unscored") and (official.value, official.outcome) == (1.0, "correct")
