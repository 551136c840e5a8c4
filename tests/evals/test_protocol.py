"""Protocols are data: read strictly, applied, and every departure from them is written down and shown."""

import functools
import http.server
import json
import threading

import pytest

from h1r import verify
from h1r.cli import eval_, eval_plan, wire
from h1r.errors import ConfigError, DataError
from h1r.evals import GROUPS, SUITES, protocol, scoring
from h1r.text import SYSTEM
from h1r.types import Problem, Prompt, Score, StopReason, Trace

NOTHING = {"samples": None, "temperature": None, "top_p": None, "max_tokens": None}


def put(folder, name, *records):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def gsm(count):
    return [{"question": f"What is {i} + 1?", "answer": f"one more\n#### {i + 1}"} for i in range(count)]


def aime(count):
    return [{"problem": f"What is {i} + 1?", "answer": i + 1} for i in range(count)]


def test_the_paper_s_settings():
    """arXiv:2601.02346, section 4."""
    told = protocol.read("falcon-h1r")
    want = {
        **dict.fromkeys(("aime24", "aime25", "hmmt25", "amo_bench"), (16, 65536)),
        "gpqa_diamond": (5, 32768), "livecodebench": (3, 65536), "mmlu_pro": (3, 32768), "tau2_telecom": (3, 32768),
        "terminal_bench_hard": (3, 32768), "hle": (1, 65536), "math500": (1, 32768), "ifbench": (1, 32768),
    }  # fmt: skip
    assert {n: (told.suites[n].samples, told.suites[n].max_tokens) for n in want} == want
    terms = [protocol.terms_of(told, n) for n in told.suites]
    assert {(t.temperature, t.top_p) for t in terms} == {(0.6, 0.95)}
    assert protocol.terms_of(told, "aime25").system == SYSTEM
    assert told.suites["hle"].judge == "gpt-4o" and protocol.terms_of(told, "hle").system.startswith("Your response")
    assert {n for names in GROUPS.values() for n in names} <= told.suites.keys()


def test_every_protocol_reads_and_names_only_options_that_exist():
    assert protocol.names() == ["artificial-analysis", "falcon-h1r", "matharena", "official"]
    for name in protocol.names():
        for suite, terms in protocol.read(name).suites.items():
            if suite in SUITES:
                assert terms.options.keys() <= SUITES[suite].options.keys(), (name, suite)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'matharena'"):
        protocol.read("mathArena")
    (tmp_path / "p.yaml").write_text("name: x\nsource: y\nsuites: {aime25: {sample: 4}}\n")
    with pytest.raises(ConfigError, match="sample"):
        protocol.read(str(tmp_path / "p.yaml"))
    with pytest.raises(ConfigError, match="lenient"):
        protocol.read("matharena", ["suites.aime25.extractor=lenient"])


def test_a_whole_protocol_skips_what_has_no_data_and_a_named_suite_does_not(tmp_path):
    put(tmp_path, "aime25/a.jsonl", *aime(30))
    followed, tasks, left = eval_plan.plan("", "matharena", [], "m", str(tmp_path), None, NOTHING)
    assert followed.name == "matharena" and [t.suite.name for t in tasks] == ["aime25"]
    assert len(left) == 2 and all("hf download" in line for line in left)
    assert tasks[0].deviations("") == [] and tasks[0].used.samples == 4
    words = tasks[0].problems[0].messages[0]["content"]
    assert (
        words
        == "Put your final answer within \\boxed{}.\nThe answer is an integer between 0 and 999 inclusive.\n\nWhat is 0 + 1?"
    )
    with pytest.raises(DataError, match="hf download"):
        eval_plan.plan("aime24", "matharena", [], "m", str(tmp_path), None, NOTHING)


def test_deviations_say_all_that_differs(tmp_path):
    put(tmp_path, "aime25/a.jsonl", *aime(12))
    changes = NOTHING | {"samples": 2, "temperature": 0.0}
    _, tasks, _ = eval_plan.plan("aime25", None, ["suites.aime25.extractor=strict"], "m", str(tmp_path), 10, changes)
    assert tasks[0].deviations("") == [
        "samples 2 instead of 16", "temperature 0.0 instead of 0.6", "extractor strict instead of chain",
        "the first 10 of 12 problems", "the data hold 12 of 30 problems",
    ]  # fmt: skip
    assert tasks[0].problems[0].messages[0] == {"role": "system", "content": SYSTEM}
    put(tmp_path, "gsm8k/test.jsonl", *gsm(2))
    _, tasks, _ = eval_plan.plan("gsm8k", None, [], "m", str(tmp_path), None, NOTHING)
    assert tasks[0].deviations("") == ["not part of the protocol: the suite's own settings"]
    assert tasks[0].used.sampling(SUITES["gsm8k"]).max_tokens == 16384


def reply(text, **more):
    return Trace(prompt=Prompt(), token_ids=(1, 2), stop=StopReason.STOP, text=text, content=text, **more)


def test_judged_problems_go_to_the_judge_others_to_the_verifier():
    terms = protocol.Terms(judge="gpt-4o")
    hard = Problem(id="a", messages=({"role": "user", "content": "q"},), kind="judge", gold="x")
    easy = Problem(id="b", messages=({"role": "user", "content": "q"},), kind="math", gold="1")

    def base(p, t):
        return Score(None if p.kind == "judge" else 1.0, "base")

    with_judge = scoring.scorer(base, terms, judge=lambda p, t: Score(0.0, "judged", {"judge": "j"}))
    assert [with_judge(p, reply("1")).value for p in (hard, easy)] == [0.0, 1.0]
    assert scoring.scorer(base, terms)(hard, reply("1")).value is None
    said = [protocol.deviations(terms, terms, problems=[hard, hard, easy], judge=j) for j in ("", "o3-mini", "gpt-4o")]
    assert said == [
        ["2 problems need a judge by gpt-4o and none was given: unscored"], ["judge o3-mini instead of gpt-4o"], [],
    ]  # fmt: skip


def test_strict_extraction_takes_a_fallback_back():
    problem = Problem(
        id="a", messages=({"role": "user", "content": "q"},), kind="choice", gold="B", meta={"options": 4}
    )
    from h1r.verify import score

    told = [
        scoring.scorer(score, protocol.Terms(extractor=e))(problem, reply("so it is (B) then B."))
        for e in ("chain", "strict")
    ]
    assert [t.value for t in told] == [1.0, 0.0] and told[1].detail["lenient"] == 1.0
    right = scoring.scorer(score, protocol.Terms(extractor="strict"))(problem, reply("Answer: B"))
    assert right.value == 1.0


def test_the_command_writes_its_protocol_and_amo_s_parser_subset(tmp_path, monkeypatch, capsys):
    rows = [
        {"question_id": i, "prompt": f"p{i}", "answer": "\\boxed{6}", "answer_type": t}
        for i, t in enumerate(["number", "number", "description"])
    ]
    put(tmp_path, "amo_bench/test.jsonl", *rows)

    def generate(prompts, sampling):
        return [
            [reply("\\boxed{6}" if "p0" in p.messages[-1]["content"] else "\\boxed{7}")] * sampling.n for p in prompts
        ]

    monkeypatch.setattr(eval_, "_generator", lambda *a: (generate, None))
    followed, tasks, _ = eval_plan.plan("amo_bench", None, [], "m", str(tmp_path), None, NOTHING | {"samples": 2})
    run = {"seed": 0, "name": "", "dtype": "auto", "box": None}
    whole, subset = eval_._run(followed, tasks, "m", tmp_path / "run", None, **run)
    assert (whole.problems, whole.outcomes["unscored"], subset.name, subset.problems) == (3, 2, "amo_bench_p", 2)
    assert subset.average.value == 0.5
    told = eval_.protocols(tmp_path / "run")["amo_bench"]
    assert told["samples"] == 2 and told["protocol"] == "falcon-h1r" and len(told["deviations"]) == 3
    judge = wire.Judge("o4-mini", lambda p, t: Score(1.0, "yes", {"judge": "o4-mini"}))
    whole, _ = eval_._run(followed, tasks, "m", tmp_path / "run", judge, **run)
    assert whole.outcomes["unscored"] == 0 and whole.average.value == pytest.approx(2 / 3)
    assert len(eval_.protocols(tmp_path / "run")["amo_bench"]["deviations"]) == 2
    eval_._rescore([str(tmp_path / "run")], False)
    table = capsys.readouterr().out.splitlines()
    assert any(line.startswith("amo_bench ") and " 66.7 " in line and line.endswith(" 36.3") for line in table)
    assert any("protocol falcon-h1r, judge o4-mini: samples 2 instead of 16" in line for line in table)
    eval_._report([str(tmp_path / "run")], False)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Protocol and deviations" in page and "the data hold 3 of 50 problems" in page and "amo_bench_p" in page


def test_hle_is_text_only_judged_and_withheld(tmp_path):
    rows = [
        {
            "id": "t1",
            "question": "Why?",
            "image": "",
            "answer": "Because",
            "answer_type": "exactMatch",
            "category": "Math",
        },
        {
            "id": "p1",
            "question": "What is seen?",
            "image": "data:image/png;base64,x",
            "answer": "B",
            "category": "Other",
        },
    ]
    put(tmp_path, "hle/test.jsonl", *rows)
    _, (task,), _ = eval_plan.plan("hle", None, [], "m", str(tmp_path), None, NOTHING)
    (p,) = task.problems
    assert (p.id, p.kind, p.meta["judge"], p.messages[1]["content"]) == ("hle-t1", "judge", "hle", "Why?")
    assert p.messages[0]["content"].endswith("Confidence: {your confidence score between 0% and 100% for your answer}")
    asked = []

    def ask(messages):
        asked.append(messages[0]["content"])
        return "extracted_final_answer: Because\nReasoning: same\nJudgement: yes\nConfidence: 80"

    judge = functools.partial(verify.judge.judge, ask, name="gpt-4o")
    score = scoring.scorer(verify.score, task.used, judge=judge)(
        p, reply("Explanation: e\nAnswer: Because\nConfidence: 80%")
    )
    assert (score.value, score.detail["judge"], score.detail["confidence"]) == (1.0, "gpt-4o", 80.0)
    assert asked[0].startswith("Judge whether") and "[question]: Why?" in asked[0]
    from h1r.evals.figures import WITHHELD, sample
    from h1r.evals.results import item

    shown = sample(p, item(p, 0, "k", reply("Answer: Because"), score), reply("Answer: Because"))
    assert (shown.question, shown.gold, shown.content, shown.why) == (WITHHELD,) * 4


def test_compare_says_what_two_runs_did_not_share(tmp_path, monkeypatch, capsys):
    def generate(prompts, sampling):
        return [[reply("\\boxed{1}")] * sampling.n for _ in prompts]

    monkeypatch.setattr(eval_, "_generator", lambda *a: (generate, None))
    for name, count, temperature in (("a", 3, 0.6), ("b", 4, 0.0)):
        put(tmp_path, f"{name}/aime25/a.jsonl", *aime(count))
        given = NOTHING | {"samples": 1, "temperature": temperature}
        followed, tasks, _ = eval_plan.plan("aime25", None, [], "m", str(tmp_path / name), 3, given)
        assert len(tasks[0].data["a.jsonl"]) == 16
        eval_._run(followed, tasks, "m", tmp_path / f"run-{name}", None, seed=0, name="", dtype="auto", box=None)
    capsys.readouterr()
    eval_._compare([str(tmp_path / "run-a"), str(tmp_path / "run-b")], False)
    lines = capsys.readouterr().out.splitlines()
    unlike = [line for line in lines if "not alike" in line]
    assert len(unlike) == 2 and "data files" in unlike[0] and unlike[1].endswith("temperature: 0.6 and 0.0")


class Judge(http.server.BaseHTTPRequestHandler):
    """A server with one model, which says yes to whatever mentions Because, in as many words as HLE wants."""

    def answer(self, told):
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": "judge-7b", "object": "model"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = asked["messages"][-1]["content"]
        said = "yes" if "[response]: Because" in words else "no"
        message = {"role": "assistant", "content": f"Reasoning: r\nJudgement: {said}\nConfidence: 90"}
        self.answer(
            {"id": "1", "model": asked["model"], "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        )

    def log_message(self, *_):
        pass


def test_a_judge_behind_an_endpoint(tmp_path, monkeypatch, capsys):
    rows = [
        {"id": f"t{i}", "question": f"Why {i}?", "image": "", "answer": "Because", "category": "Math"} for i in range(4)
    ]
    put(tmp_path, "hle/test.jsonl", *rows)

    def generate(prompts, sampling):
        return [[reply("Because" if i < 3 else "Why not")] for i, _ in enumerate(prompts)]

    monkeypatch.setattr(eval_, "_generator", lambda *a: (generate, None))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        judge = wire.judge_of(f"http://127.0.0.1:{server.server_port}", "")
        assert judge.name == "judge-7b"
        followed, tasks, _ = eval_plan.plan("hle", None, [], "m", str(tmp_path), None, NOTHING)
        (found,) = eval_._run(followed, tasks, "m", tmp_path / "run", judge, seed=0, name="", dtype="auto", box=None)
    finally:
        server.shutdown()
    assert (found.average.value, found.outcomes["unscored"]) == (0.75, 0)
    assert all(i.detail["judge"] == "judge-7b" for i in found.items)
    eval_._rescore([str(tmp_path / "run")], False)  # the server is gone: the verdicts stay
    out = capsys.readouterr().out
    assert " 75.0 " in out and "judge judge-7b instead of gpt-4o" in out
    assert "hle: calibration error 15.0% over 4 answers" in out
    with pytest.raises(ConfigError, match="without --judge"):
        wire.judge_of("", "gpt-4o")
