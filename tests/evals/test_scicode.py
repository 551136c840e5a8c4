"""SciCode: the published prompt, each sample's own chain, step tests in the sandbox, both ways of counting."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from h1r.errors import DataError
from h1r.evals import SUITES, Store, protocol, rescore_chain, result, run_chain, scoring
from h1r.evals.results import Item
from h1r.evals.suites import scicode, scicode_tests
from h1r.types import Prompt, SamplingParams, Score, StopReason, Trace
from h1r.verify import score

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "scicode").exists(), reason=f"SciCode's first problem is not at {DATA}")
SUITE = SUITES["scicode"]
WRAP = "def wrap(r, L):\n    print('loud')\n    return np.mod(r, L)\n"
DIST = (
    "def dist(r1, r2, L):\n    d = np.abs(wrap(np.asarray(r1) - r2, L))\n"
    "    return float(np.linalg.norm(np.minimum(d, L - d)))\n"
)


def step(number, name, check="assert f() == target"):
    return {
        "step_number": number, "step_description_prompt": f"Do {name}.", "step_background": f"Background: {name}",
        "function_header": f"def {name}():", "return_line": "    return x", "test_cases": [check],
    }  # fmt: skip


def put(folder, *records):
    (folder / "scicode").mkdir(exist_ok=True)
    (folder / "scicode" / "problems_test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def main(number, *steps):
    return {"problem_id": number, "required_dependencies": "import numpy as np", "sub_steps": list(steps)}


def trace(text):
    return Trace(prompt=Prompt(), token_ids=(1, 2, 3), stop=StopReason.STOP, text=text, content=text)


@needs_data
def test_the_first_problem_and_its_prompt():
    options = {"targets": "none", "background": True}
    problems = SUITE.load(DATA / "scicode" / "first_problem.jsonl", options=options)
    assert len(problems) == 12 and [len(w) for w in scicode.waves(problems)] == [1] * 12
    record = json.loads((DATA / "scicode" / "first_problem.jsonl").read_text().splitlines()[0])
    first, second = record["sub_steps"][:2]
    template = (DATA / "scicode" / "multistep_template.txt").read_text()
    told = [f"{s['step_description_prompt']}\n{s['step_background']}" for s in (first, second)]
    want = template.format(
        problem_steps_str=f"{told[0]}\n\ndef wrap(): pass",
        next_step_str=f"{told[1]}\n\n{second['function_header']}\n\n{second['return_line']}",
        dependencies=record["required_dependencies"],
    )
    written = {"scicode-77.1": trace("Sure.\n```python\ndef wrap(): pass\n```\n")}
    assert scicode.asked(problems[1], written).messages[-1]["content"] == want
    bare = SUITE.load(DATA / "scicode" / "first_problem.jsonl", options=options | {"background": False})
    text = scicode.asked(bare[0], {}).messages[-1]["content"]
    plain = (DATA / "scicode" / "background_comment_template.txt").read_text()
    header = f"{first['step_description_prompt']}\n\n{first['function_header']}\n\n{first['return_line']}"
    assert text == plain.format(
        problem_steps_str="", next_step_str=header, dependencies=record["required_dependencies"]
    )


@needs_data
def test_steps_run_on_the_code_before_them(tmp_path, monkeypatch):
    record = json.loads((DATA / "scicode" / "first_problem.jsonl").read_text().splitlines()[0])
    record |= {"required_dependencies": "import math\nimport numpy as np", "sub_steps": record["sub_steps"][:2]}
    put(tmp_path, record)
    (tmp_path / "scicode" / "test_data.h5").write_text("")
    monkeypatch.setattr(scicode, "READER", "json")
    space = {"np": np}
    exec(WRAP + DIST, space)  # our own reference

    def targets(path, number, count):
        out = []
        for check in record["sub_steps"][int(number.split(".")[1]) - 1]["test_cases"]:
            said = (
                check[: check.index("assert")]
                + "target = "
                + check[check.index("allclose(") + 9 : check.rindex(", target")]
            )
            scope = dict(space)
            exec(said, scope)
            out.append(scicode_tests.literal(scope["target"]))
        assert len(out) == count == 3
        return out

    monkeypatch.setattr(scicode_tests, "targets", targets)
    one, two = SUITE.load(tmp_path)
    good = {one.id: trace(f"```python\n{WRAP}```"), two.id: trace(f"```python\n{DIST}```")}
    bad = {one.id: trace("```python\ndef wrap(r, L):\n    return r\n```"), two.id: good[two.id]}
    quits = {one.id: trace("```python\nimport sys\nsys.exit(0)\n```")}
    runs = [(p, written) for written in (good, bad) for p in (one, two)] + [(one, quits)]
    assert [passes(scicode.asked(p, written), written[p.id]) for p, written in runs] == [True, True, False, True, False]


def passes(problem, reply):
    """The assembled program, here and now: it is our own."""
    content = scoring.assembled(problem, reply).content
    program = content.removeprefix(f"{scoring.FENCE}python\n").removesuffix(f"\n{scoring.FENCE}")
    (test,) = problem.tests
    done = subprocess.run([sys.executable, "-c", program], input=test["input"], capture_output=True, text=True)
    return done.stdout == test["expected"]


def test_a_sandbox_without_the_packages_leaves_steps_unscored(tmp_path, monkeypatch):
    (put(tmp_path, main("1", step("1.1", "a"))) / "scicode" / "test_data.h5").write_text("")
    monkeypatch.setattr(scicode, "READER", "json")
    monkeypatch.setattr(scicode_tests, "targets", lambda path, number, count: ["7"] * count)
    graded = scoring.scorer(score, protocol.Terms())
    reply = trace("```python\ndef f(): return 7\n```")
    for modules, plain in ((["json", "math"], True), (["json", "no_such_module"], False)):
        monkeypatch.setattr(scicode, "MODULES", modules)
        (p,) = SUITE.load(tmp_path)
        found = graded(replace_numpy(scicode.asked(p, {})), reply)
        if "sandbox" in found.why and "lacks" not in found.why:
            pytest.skip(f"no sandbox here: {found.why}")
        assert (found.value == 1.0) if plain else (found.value is None and "lacks json, no_such_module" in found.why)


def replace_numpy(problem):
    """Its program without numpy, which the sandbox of a test machine need not have."""
    before, after = problem.meta["program"]
    helpers = scicode_tests.HELPERS
    meta = {
        **problem.meta,
        "program": (before.replace("import numpy as np", ""), after.replace(helpers, "import sys as _sys")),
    }
    return replace(problem, meta=meta)


def test_each_sample_walks_its_own_chain_once(tmp_path):
    put(tmp_path, main("1", step("1.1", "a"), step("1.2", "b")), main("2", step("2.1", "c")))
    problems = SUITE.load(tmp_path, options={"targets": "none"})
    prompts, drawn = [], []

    def generate(asked, sampling):
        assert sampling.n == 1
        prompts.extend(p.messages[-1]["content"] for p in asked)
        drawn.append(len(asked))
        return [[trace(f"```python\nx{len(prompts)}_{i} = 1\n```")] for i in range(len(asked))]

    def grade(problem, t):
        return Score(float("x2_0" in t.content or problem.meta["main"] == "2"), "")

    more = {"model": "m", "sampling": SamplingParams(seed=1), "prompt_of": lambda p: Prompt(messages=p.messages)}
    store = Store(tmp_path / "g.jsonl")
    items = list(run_chain(problems, SUITE.chain, generate=generate, score=grade, store=store, samples=2, **more))
    assert drawn == [2, 1, 2, 1] and len(items) == 6
    assert "x2_0 = 1" in prompts[2] and "x5_0 = 1" in prompts[5] and "x2_0" not in prompts[5]
    again = list(
        run_chain(
            problems, SUITE.chain, generate=generate, score=grade, store=Store(tmp_path / "g.jsonl"), samples=2, **more
        )
    )
    assert again == items and len(prompts) == 6
    assert [i.value for i in rescore_chain(store, problems, SUITE.chain, grade)] == [i.value for i in items]
    assert result("m", scicode.solved(problems, items)).average.value == 0.5


def test_291_and_288(tmp_path):
    for number in scicode.GIVEN:
        (tmp_path / f"{number}.txt").write_text(f"given_{number.replace('.', '_')} = 1\n")
    records = [main("62", step("62.1", "a"), step("62.2", "b")), main("9", step("9.1", "c"))]
    problems = SUITE.load(put(tmp_path, *records), options={"targets": "none"})
    assert [p.id for p in problems] == ["scicode-62.2", "scicode-9.1"]
    assert "given_62_1 = 1" in scicode.asked(problems[0], {}).messages[-1]["content"]
    items = [
        Item(problem=p.id, sample=0, key=p.id, value=1.0, why="", outcome="correct", tokens=5, stop="stop")
        for p in problems
    ]
    figures = {n: result(n, view(problems, items)).average.value for n, view in SUITE.views.items()}
    assert figures == {"scicode_main": 1.0, "scicode_291": pytest.approx(2 / 3), "scicode_main_291": 0.5}


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    put(tmp_path, main("1", step("1.1", "a")))
    monkeypatch.setattr(scicode, "READER", "no_such_module")
    with pytest.raises(DataError, match="pip install no_such_module"):
        SUITE.load(tmp_path)
    monkeypatch.setattr(scicode, "READER", "json")
    with pytest.raises(DataError, match=r"no targets at .*test_data\.h5"):
        SUITE.load(tmp_path)
    put(tmp_path, main("13", step("13.6", "a")))
    with pytest.raises(DataError, match=r"step 13\.6 is given"):
        SUITE.load(tmp_path, options={"targets": "none"})


def test_targets_come_back_bit_for_bit():
    scope = {}
    exec(scicode_tests.HELPERS, scope)
    array = np.random.default_rng(0).standard_normal((3, 4)) + 1j
    value = {"a": array, 2.0: [np.float64(0.1), float("nan"), b"word"], "c": (np.int64(7), np.array([True, False]))}
    back = eval(scicode_tests.literal(value), scope)
    assert (back["a"] == array).all() and back["a"].dtype == array.dtype
    assert back[2.0][0] == 0.1 and np.isnan(back[2.0][1]) and back[2.0][2] == "word" and back["c"][0] == 7
    close, dicts = scope["cmp_tuple_or_list"], scope["are_dicts_close"]
    assert (
        close((array, 1.0), (array + 1e-12, 1.0)) and not close((array, 1.0), (array, 1.1)) and not close((1,), (1, 2))
    )
    assert dicts({"x": 1.0}, {"x": 1.0 + 1e-9}) and not dicts({"x": 1.0}, {"y": 1.0})


def test_the_command_runs_and_rescores_chains(tmp_path, monkeypatch, capsys):
    from h1r.cli import eval_, eval_plan

    put(tmp_path, main("1", step("1.1", "a"), step("1.2", "b")))
    (tmp_path / "scicode" / "test_data.h5").write_text("")
    monkeypatch.setattr(scicode, "READER", "json")
    monkeypatch.setattr(scicode, "MODULES", ["json"])
    monkeypatch.setattr(scicode_tests, "targets", lambda path, number, count: ["7"] * count)
    graded = []

    def graded_by(score, terms, **more):
        def one(problem, reply):
            graded.append(problem.meta["program"][0].count("written = 1"))
            return Score(float(problem.meta["step"] == "1.2"), "")

        return one

    monkeypatch.setattr(scoring, "scorer", graded_by)

    def generate(prompts, sampling):
        return [[trace("```python\nwritten = 1\n```")] * sampling.n for _ in prompts]

    monkeypatch.setattr(eval_, "_generator", lambda *a: (generate, None))
    nothing = {"samples": 2, "temperature": None, "top_p": None, "max_tokens": None}
    followed, tasks, _ = eval_plan.plan("scicode", "falcon-h1r", [], "m", str(tmp_path), None, nothing)
    eval_._run(followed, tasks, "m", tmp_path / "run", None, seed=0, name="", dtype="auto", box=None)
    assert graded == [0, 1, 0, 1]
    eval_._rescore([str(tmp_path / "run")], False)
    assert graded == [0, 1, 0, 1] * 2
    table = capsys.readouterr().out
    assert "scicode " in table and " 50.0 " in table and "scicode_main " in table and "samples 2 instead of 3" in table
    eval_._report([str(tmp_path / "run")], False)
    assert "Do a." in (tmp_path / "run" / "report.html").read_text()
