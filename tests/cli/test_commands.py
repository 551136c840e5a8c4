"""The command line as a user meets it: speed of --help, one-line errors, packaged recipes, small commands."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from h1r import cli, config
from h1r.cli.grpo import GrpoRecipe
from h1r.cli.quickstart import QuickstartRecipe
from h1r.cli.sft import SftRecipe
from h1r.rl.config import GrpoConfig
from h1r.train.sft import SftConfig


def h1r(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "h1r", *map(str, arguments)], capture_output=True, text=True, timeout=110, cwd=cwd
    )


class Here(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(monkeypatch, capsys):
    """The same in this process, which has PyTorch loaded: what a command says, without a second or more of imports."""

    def run(*arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["h1r", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as e:
            code = e.code or 0
        return Here(code, *capsys.readouterr())

    return run


def test_help_is_quick_and_lists_every_command():
    best = 9.0
    for _ in range(3):
        begin = time.perf_counter()
        done = h1r("--help")
        best = min(best, time.perf_counter() - begin)
    assert done.returncode == 0
    for command in [
        "quickstart",
        "sft",
        "grpo",
        "eval",
        "verify",
        "think",
        "chat",
        "serve",
        "data",
        "doctor",
        "inspect",
        "bench",
    ]:
        assert command in done.stdout
    assert best < 3.0  # 0.4 s on a quiet machine; importing torch alone would take two


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sft", "quickstrt-sft"), "did you mean 'quickstart-sft'"),
        (("sft", "quickstart-sft", "--set", "train.stps=3"), "unknown key 'stps'; did you mean 'steps'"),
        (("sft", "quickstart-sft", "--set", "data.vocab=few"), "data.vocab"),
        (("grpo", "quickstart-grpo", "--set", "model=nowhere"), "nowhere: no such model folder"),
        (("sft", "falcon-h1r-7b-sft"), "hf download ORGANISATION/Falcon-H1-7B-Base"),
        (
            ("grpo", "quickstart-grpo", "--set", "environments=[{weigth: 2}]"),
            "'environments.0.weigth'; did you mean 'weight'",
        ),
        (("grpo", "quickstart-grpo", "--set", "scale.backend=vllm", "--set", "model=."), "add --scale ray"),
        (("grpo", "quickstart-grpo", "--scale", "ray", "--set", "scale.transport=mail"), "folder or broadcast"),
        (("quickstart", "--set", "searsh.traces=4"), "did you mean 'search'"),
        (("think", "no/such/folder", "hello"), "no such checkpoint folder"),
        (("eval", "no/such/folder"), "no data"),
        (("eval", "x", "--suite", "aime52"), "did you mean 'aime25'"),
        (("eval", "compare", "a"), "two run folders"),
        (("eval", "report", "nowhere"), "no evaluation lies there"),
        (("doctor",), "checkpoint folder"),
        (("inspect", "nowhere"), "no journal.jsonl"),
        (("verify", "1"), "needs a gold and an answer"),
        (("bench", "decode", "--models", "mamba"), "neither a checkpoint folder nor a preset"),
        (("bench", "throughput", "--hardware", "abacus"), "known are"),
        (("data", "convert", "none.jsonl", "-o", "x.jsonl"), "no such file"),
        (("serve", "no/such/folder", "--host", "0.0.0.0"), "key"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(arguments, says, tmp_path, here):
    done = here(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("h1r: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_path_that_the_system_refuses_is_one_line(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    (tmp_path / "taken").touch()
    done = h1r("data", "convert", "a", "-o", "taken/", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "taken" in done.stderr and "a file lies where a folder is needed" in done.stderr
    assert "Traceback" in h1r("data", "convert", "a", "-o", "taken/", "--debug", cwd=tmp_path).stderr


@pytest.mark.parametrize("command", [("serve", "no/model"), ("sandbox",)])
def test_an_address_that_is_taken_is_told_before_anything_is_loaded(command, tmp_path, here):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = here(*command, "--port", taken.getsockname()[1], cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "cannot be bound" in done.stderr and "--port" in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    done = h1r("sft", "nothing", "--debug", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr and "ConfigError" in done.stderr


def test_a_torn_jsonl_is_named(tmp_path, here):
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "messages": []\n')
    done = here("data", "inspect", "bad.jsonl", cwd=tmp_path)
    assert done.returncode == 2 and "line 1" in done.stderr


def test_packaged_recipes_build():
    read = config.read("quickstart", QuickstartRecipe)
    assert read.heldout >= 600
    sft = config.read(read.sft, SftRecipe)
    assert config.build(sft.train, SftConfig).steps > 0
    grpo = config.read(read.grpo, GrpoRecipe)
    built = config.build(grpo.rl, GrpoConfig)
    assert (built.group, built.clip_low, built.clip_high, built.tis_cap, built.mismatch_limit) == (
        16,
        0.2,
        0.28,
        2.0,
        0.01,
    )
    assert built.kl == built.entropy == 0.0 and built.zero_variance == "backfill"


def test_recipe_path_and_name_are_the_same(tmp_path):
    by_name = config.read("quickstart-sft", SftRecipe)
    assert config.read("recipes/quickstart-sft.yaml", SftRecipe) == by_name


@pytest.mark.parametrize(("gold", "answer", "code"), [(r"\frac{1}{\sqrt{2}}", r"\sqrt{1/2}", 0), ("12", "13", 1)])
def test_verify_says_why(gold, answer, code, tmp_path, here):
    done = here("verify", gold, answer, "--explain", cwd=tmp_path)
    assert done.returncode == code
    assert f"verdict      {'correct' if code == 0 else 'incorrect'}" in done.stdout
    assert "tier" in done.stdout


def test_data_from_rule_to_mixture(tmp_path, here):
    assert (
        "40 problems" in here("data", "make", "-o", "a.jsonl", "--count", 40, "--domain", "math", cwd=tmp_path).stdout
    )
    assert (
        "30 problems" in here("data", "make", "-o", "b.jsonl", "--count", 30, "--domain", "chat", cwd=tmp_path).stdout
    )
    done = here("data", "verify", "a.jsonl", cwd=tmp_path)
    assert "40/40 correct" in done.stdout, done.stdout + done.stderr
    assert "40 new entries" in here("data", "difficulty", "a.jsonl", "--table", "d.jsonl", cwd=tmp_path).stdout
    mixed = here("data", "mix", "a.jsonl=3", "b.jsonl=1", "-o", "m.jsonl", "--count", 400, cwd=tmp_path)
    assert "400 problems" in mixed.stdout, mixed.stderr
    domains = [json.loads(x)["domain"] for x in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert 0.68 < domains.count("math") / 400 < 0.82
    told = json.loads(here("data", "inspect", "m.jsonl", "--json", cwd=tmp_path).stdout)
    assert told["problems"] == 400 and abs(sum(c["mass"] for c in told["cells"]) - 1) < 1e-9


def test_throughput_model_prints_the_published_settings(tmp_path, here):
    done = here("bench", "throughput", "--json", cwd=tmp_path)
    rows = [json.loads(x) for x in done.stdout.splitlines()]
    chosen = next(r for r in rows if (r["prompt"], r["out"], r["batch"]) == (512, 32768, 32))
    assert abs(chosen["falcon-h1r-7b"] - 2476) < 10  # ideal tokens/s of one H100


def test_ctrl_c_says_what_is_kept(tmp_path):
    import signal

    small = ["--set", "train.steps=500", "--set", "data.sample=600"]
    command = [sys.executable, "-m", "h1r", "sft", "quickstart-sft", *small]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "quickstart-sft" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "goes on from the last checkpoint" in said and "Traceback" not in said, said


def test_ctrl_c_promises_nothing_where_nothing_is_kept(tmp_path, here, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("h1r.cli.wire.load_llm", interrupt)
    for command in (("think", "m", "1 + 1?"), ("chat", "m")):
        done = here(*command, cwd=tmp_path)
        assert done.returncode == 130 and done.stderr == "h1r: interrupted\n", done.stderr


def test_pass_hat_k_is_told_of_suites_that_an_agent_plays():
    from h1r.cli.eval_ import reliability
    from h1r.evals import result
    from h1r.evals.results import Item

    def item(problem, sample, value):
        outcome = "correct" if value else "wrong"
        key = f"{problem}{sample}"
        return Item(
            problem=problem, sample=sample, key=key, value=value, why="", outcome=outcome, tokens=1, stop="stop"
        )

    values = {"a": (1.0, 1.0), "b": (1.0, 0.0), "c": (0.0, 0.0), "d": (1.0, 1.0)}
    items = [item(p, i, v) for p, both in values.items() for i, v in enumerate(both)]
    line = reliability(result("tau2_telecom", items, group="code & agentic"))
    assert "pass^1 62.5%" in line and "pass^2 50.0%" in line and "pass^3" not in line
    assert reliability(result("gsm8k", items)) == ""
    alone = reliability(result("tau2_telecom", [*items, item("e", 0, 1.0), item("e", 1, None)]))
    assert alone == ""


def test_contamination_is_found_by_statements_and_by_their_hashes_alone(tmp_path, here):
    first = here("data", "make", "-o", "bench.jsonl", "--count", "20", "--split", "held_out", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    clean = here("data", "make", "-o", "train.jsonl", "--count", "20", "--seed", "5", cwd=tmp_path)
    assert clean.returncode == 0, clean.stderr
    rows = (tmp_path / "bench.jsonl").read_text().splitlines()
    leaked = (tmp_path / "train.jsonl").read_text() + "\n".join(rows[:3]) + "\n"
    (tmp_path / "train.jsonl").write_text(leaked)

    made = here("data", "hashes", "--against", "bench.jsonl", "--out", "index.jsonl", "--salt", "s", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    written = (tmp_path / "index.jsonl").read_text()
    statement = json.loads(rows[0])["messages"][-1]["content"]
    assert statement not in written

    for against in (("--against", "bench.jsonl"), ("--hashes", "index.jsonl")):
        told = here("data", "contamination", "train.jsonl", *against, "--out", "hits.jsonl", cwd=tmp_path)
        assert told.returncode == 0, told.stderr
        assert "of 20 statements" in told.stdout
        hits = [json.loads(line) for line in (tmp_path / "hits.jsonl").read_text().splitlines()]
        assert sorted(hit["item"] for hit in hits if hit["how"] == "exact") == ["0", "1", "2"]
    assert here("data", "contamination", "train.jsonl", cwd=tmp_path).returncode == 2


def test_grpo_under_torchrun_is_refused(monkeypatch, tmp_path, here):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = here("grpo", "quickstart-grpo", cwd=tmp_path)
    assert done.returncode == 2 and "without torchrun" in done.stderr


def test_the_7b_recipes_state_the_published_values():
    """arXiv:2601.02346, tables 1 and 2."""
    sft = config.read("falcon-h1r-7b-sft", SftRecipe)
    train = config.build(sft.train, SftConfig, "sft")
    assert (train.optim.lr, train.optim.schedule, train.optim.warmup, train.optim.weight_decay) == (
        1024e-6,
        "linear",
        0.04,
        0.01,
    )
    assert (train.rows, train.optim.clip, train.optim.betas, train.bf16) == (512, 1.0, (0.9, 0.999), "on")
    assert train.steps == 3 * 3_110_000 // 512 and train.length == 49152 and train.too_long == "trim"
    assert sft.shard.context == 2 and sft.shard.weights == "sharded"
    grpo = config.read("falcon-h1r-7b-grpo", GrpoRecipe)
    rl = config.build(grpo.rl, GrpoConfig, "grpo")
    assert (rl.group, rl.prompts_per_step, rl.temperature, rl.max_tokens) == (16, 128, 0.85, 49152)
    assert (rl.clip_low, rl.clip_high, rl.tis_cap, rl.kl, rl.entropy) == (0.2, 0.28, 2.0, 0.0, 0.0)
    assert (rl.optim.lr, rl.optim.warmup, rl.updates, rl.zero_variance) == (2e-6, 10, 1, "backfill")


def test_nano_recipes_are_sound():
    nano = config.read("nano", QuickstartRecipe)
    assert (nano.sft, nano.grpo) == ("nano-sft", "nano-grpo")
    config.build(config.read("nano-sft", SftRecipe).train, SftConfig, "sft")
    config.build(config.read("nano-grpo", GrpoRecipe).rl, GrpoConfig, "grpo")


def test_generate_makes_what_is_missing_and_rl_filter_keeps_what_teaches(tmp_path):
    """A teacher's traces, resumed; pass rates; and the filter before RL, with the model that comes with the repository."""
    from h1r.cli.data import rl_filter_
    from h1r.cli.data_rollouts import by_rollouts, by_teacher
    from h1r.data import procedural, write
    from h1r.types import SamplingParams

    nano = str(Path(__file__).parents[2] / "models" / "nano")
    problems, traces, table = (str(tmp_path / name) for name in ("p.jsonl", "t.jsonl", "d.jsonl"))
    write(problems, [procedural.sample(i, seed=9) for i in range(24)])
    sampling = SamplingParams(temperature=0.6, max_tokens=200, n=2, seed=0)
    assert by_teacher(problems, traces, nano, "", sampling) == 48
    made = [json.loads(line) for line in Path(traces).read_text().splitlines()]
    assert all(m["solution"][0]["content"] or m["solution"][0]["tool_calls"] for m in made)
    Path(traces).write_text("".join(json.dumps(m) + "\n" for m in made[:31]))
    assert by_teacher(problems, traces, nano, "", sampling) == 17
    assert by_rollouts(problems, table, nano, "", SamplingParams(temperature=1.2, max_tokens=200, n=4, seed=0)) == 24
    rl_filter_(problems, str(tmp_path / "rl.jsonl"), table=table, majority=4, keep=0.0, seed=0)
    rates = {r["id"]: r["pass_rate"] for r in map(json.loads, Path(table).read_text().splitlines())}
    kept = {json.loads(line)["id"] for line in (tmp_path / "rl.jsonl").read_text().splitlines()}
    assert kept == {name for name, rate in rates.items() if 0 < rate < 1} and len(kept) < 24
