"""LLM: a checkpoint folder in, traces out; scores equal a full softmax; threads share one batch."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import h1r
from h1r.engine import LLM, Event
from h1r.engine.llm import locate
from h1r.errors import CheckpointError, ConfigError
from h1r.model import H1Config, Model, build, save
from h1r.ops.layout import Layout
from h1r.text import Tokenizer, render, split, train
from h1r.types import Prompt, SamplingParams, StopReason, Trace

TEXTS = [f"{a} plus {b} equals {a + b}. The answer is {a + b}" for a in range(30) for b in range(30)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(TEXTS, 320)


@pytest.fixture(scope="module")
def config(tokenizer: Tokenizer) -> H1Config:
    return H1Config(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
        max_position_embeddings=512, embedding_multiplier=1.3, lm_head_multiplier=0.7, key_multiplier=1.4,
        attention_out_multiplier=0.8, ssm_in_multiplier=0.9, ssm_out_multiplier=1.1, mlp_multipliers=(0.8, 1.2),
        ssm_multipliers=(0.7, 1.3, 0.8, 1.2, 0.9), eos_token_id=tokenizer.stop_ids[0],
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(config: H1Config) -> Model:
    return build(config, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, plain: Model, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    save(plain, path)
    tokenizer.save(path)
    return path


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return h1r.LLM(folder, dtype="float32", seed=0)


def full_softmax(model: Model, ids: tuple[int, ...]) -> np.ndarray:
    with torch.inference_mode():
        logits = model.logits(model.forward(torch.tensor(ids), Layout.of((len(ids),)))).double()
    return logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


def test_score_is_the_full_softmax(llm: LLM, plain: Model) -> None:
    rng = np.random.default_rng(0)
    rows = [tuple(int(i) for i in rng.integers(0, 280, n)) for n in (1, 2, 40, 17)]
    for ids, got in zip(rows, llm.score(rows), strict=True):
        assert got.dtype == np.float32 and len(got) == len(ids) and np.isnan(got[0])
        assert np.abs(got[1:] - full_softmax(plain, ids)).max(initial=0) <= 1e-5


def test_generated_logprobs_equal_score(llm: LLM) -> None:
    groups = llm.generate(
        ["1 plus 2", [5, 6, 7], Prompt(text="3 plus 4")], SamplingParams(temperature=1.0, max_tokens=30, n=3, seed=4)
    )
    assert [len(g) for g in groups] == [3, 3, 3]
    for group in groups:
        for index, trace in enumerate(group):
            assert trace.index == index
            scored = llm.score([(*trace.prompt.token_ids, *trace.token_ids)])[0][len(trace.prompt.token_ids) :]
            assert np.abs(scored - trace.raw_logprobs).max() <= 1e-5
            assert np.abs(trace.logprobs - trace.raw_logprobs).max() <= 1e-6
    assert len({t.token_ids for g in groups for t in g}) == 9


def test_greedy_repeats_and_top_holds_the_chosen(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=24, n=4, logprobs=20, seed=0)
    (group,) = llm.generate(["7 plus 8 equals"], params)
    assert len({t.token_ids for t in group}) == 1
    trace = group[0]
    assert len(trace.top) == len(trace.token_ids)
    for token, logp, confidence, top in zip(trace.token_ids, trace.logprobs, trace.confidence, trace.top, strict=True):
        assert len(top) == 20 and top[0][0] == token and abs(top[0][1] - logp) < 1e-6
        assert abs(confidence + np.mean([v for _, v in top])) < 1e-5
    (again,) = llm.generate("7 plus 8 equals", params)
    assert again[0].token_ids == trace.token_ids


def test_text_is_the_decoded_tokens_without_the_stop(llm: LLM, tokenizer: Tokenizer) -> None:
    (group,) = llm.generate(["1"], SamplingParams(n=16, max_tokens=200, seed=1, temperature=1.2))
    stopped = [t for t in group if t.stop is StopReason.STOP]
    assert stopped
    for trace in group:
        body = trace.token_ids[:-1] if trace.stop is StopReason.STOP else trace.token_ids
        assert trace.text == tokenizer.decode(body)
        assert (trace.token_ids[-1] in tokenizer.stop_ids) == (trace.stop is StopReason.STOP)
        assert not set(body) & set(tokenizer.stop_ids)


def test_reasoning_and_content_come_apart(llm: LLM, tokenizer: Tokenizer) -> None:
    # The penalty divides what was written, so the biases are used up in order.
    order = [tokenizer.encode(t)[0] for t in ("<think>", "1", "</think>", "7")]
    bias = {token: 100.0 - 10 * i for i, token in enumerate(order)}
    forced = SamplingParams(temperature=0, max_tokens=4, logit_bias=bias, repetition_penalty=1.9)
    trace = llm.generate([[60]], forced)[0][0]
    assert trace.token_ids == tuple(order)
    assert (trace.text, trace.reasoning, trace.content) == ("<think>1</think>7", "1", "7")

    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    trace = llm.chat(messages, SamplingParams(temperature=0.9, max_tokens=40, seed=2))
    parts = split(trace.text)
    assert (trace.reasoning, trace.content) == (parts.reasoning, parts.content)
    assert trace.prompt == render(messages, tokenizer=tokenizer)
    default = llm.recommended()
    assert (default.temperature, default.top_p) == (0.6, 0.95)


def test_threads_share_the_engine(llm: LLM) -> None:
    params = SamplingParams(max_tokens=20, seed=9, n=2)
    want = [llm.generate([[i + 20, 30]], params)[0] for i in range(6)]
    got: dict[int, list[Trace]] = {}

    def work(i: int) -> None:
        got[i] = llm.generate([[i + 20, 30]], params)[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert [[t.token_ids for t in got[i]] for i in range(6)] == [[t.token_ids for t in g] for g in want]
    llm.loop.call(lambda engine: engine.check_integrity())


def test_streaming_abort_and_listener_errors(llm: LLM) -> None:
    events: list[Event] = []
    ticket = llm.submit("2 plus", SamplingParams(max_tokens=25, n=2, seed=3), events.append)
    traces = ticket.result(30)
    for trace in traces:
        mine = [e for e in events if e.index == trace.index]
        assert tuple(e.token_id for e in mine if e.trace is None) == trace.token_ids
        assert "".join(e.text for e in mine).rstrip("�") == trace.text.rstrip("�")

    first = threading.Event()
    endless = SamplingParams(max_tokens=400, ignore_eos=True, seed=1)
    ticket = llm.submit("2 plus", endless, lambda e: (first.set(), time.sleep(0.01))[0])
    assert first.wait(30)
    ticket.abort()
    (trace,) = ticket.result(30)
    assert trace.stop is StopReason.ABORT and 0 < len(trace.token_ids) < 400

    def broken(event: Event) -> None:
        raise RuntimeError("listener broke")

    with pytest.raises(RuntimeError, match="listener broke"):
        llm.submit("2", endless, broken).result(30)
    llm.loop.call(lambda engine: engine.check_integrity())


def test_a_failing_step_reaches_every_caller(folder: Path) -> None:
    llm = LLM(folder, seed=0)
    params = SamplingParams(max_tokens=5, temperature=0)
    want = llm.generate([[1, 2]], params)[0][0].token_ids
    run = llm.loop.engine.runner.run
    llm.loop.engine.runner.run = lambda plan: (_ for _ in ()).throw(MemoryError("no memory"))  # type: ignore[assignment,method-assign]
    with pytest.raises(MemoryError, match="no memory"):
        llm.generate([[1, 2], [3]], params)
    llm.loop.engine.runner.run = run  # type: ignore[method-assign]
    assert llm.generate([[1, 2]], params)[0][0].token_ids == want


def test_load_swaps_weights(folder: Path, config: H1Config, tmp_path: Path) -> None:
    llm = LLM(folder, seed=0)
    other = build(config, seed=5)
    save(other, tmp_path / "new")
    ids = tuple(range(20, 40))
    before = llm.score([ids])[0]
    llm.load(str(tmp_path / "new"), version=3)
    after = llm.score([ids])[0]
    assert np.abs(after[1:] - full_softmax(other, ids)).max() <= 1e-5 < np.abs(after[1:] - before[1:]).max()
    assert llm.version == 3 and llm.generate([ids], SamplingParams(max_tokens=2))[0][0].version == 3
    save(other, tmp_path / "narrow", dtype=torch.bfloat16)  # the same model, stored in fewer bits
    llm.load(tmp_path / "narrow", version=4)
    assert 0 < np.abs(llm.score([ids])[0][1:] - after[1:]).max() < 0.05 and llm.version == 4
    settings = json.loads((tmp_path / "new" / "config.json").read_text())
    settings["key_multiplier"] = 9.0
    (tmp_path / "new" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="another model"):
        llm.load(tmp_path / "new", version=5)


def test_without_tokenizer(folder: Path) -> None:
    llm = LLM(folder, tokenizer=False, dtype="float32", seed=0)
    trace = llm.generate([[1, 2, 3]], SamplingParams(max_tokens=200, temperature=1.5, seed=0, n=8))[0]
    assert any(t.stop is StopReason.STOP for t in trace)  # the stop id of generation_config.json
    assert trace[0].text == ""
    for call in (lambda: llm.generate(["text"]), lambda: llm.chat([{"role": "user", "content": "x"}])):
        with pytest.raises(ConfigError, match="tokenizer"):
            call()


def test_errors_name_the_cure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        LLM("/nowhere/at/all")
    with pytest.raises(CheckpointError, match="download it"):
        locate("nobody/never-made-this", None)
    with pytest.raises(ConfigError, match="dtype='int3'"):
        LLM(folder, dtype="int3")
    with pytest.raises(ConfigError, match="pagesize"):
        LLM(folder, pagesize=3)
    llm = LLM(folder, seed=0)
    with pytest.raises(ConfigError, match="2 prompts, but 1 sampling"):
        llm.generate([[1], [2]], [SamplingParams()])
    with pytest.raises(ConfigError, match="outside the vocabulary"):
        llm.generate([[1], [10**6]], SamplingParams(max_tokens=2))
    with pytest.raises(ConfigError, match="score needs"):
        llm.score([[]])


def test_formats_of_a_gpu_are_refused_on_a_processor(folder: Path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for given, words in (
        ({"dtype": "fp8"}, "needs a GPU"),
        ({"kv_dtype": "fp8"}, "is for GPUs"),
        ({"kv_dtype": "fp4"}, "one of auto, fp8"),
        ({"state_dtype": "fp8"}, "one of float32"),
    ):
        with pytest.raises(ConfigError, match=words):
            LLM(folder, **given)
    wide, half = (LLM(folder, state_dtype=name) for name in ("float32", "bfloat16"))
    assert half.loop.engine.runner.cache.ssm.dtype == torch.bfloat16
    ids = [[5, 9, 11, 2]]
    a, b = (llm.generate(ids, SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)) for llm in (wide, half))
    assert abs(a[0][0].logprobs[0] - b[0][0].logprobs[0]) < 0.02


def test_a_program_may_end_while_its_engine_writes():
    """The engine's thread, ended by the interpreter inside PyTorch, would abort the process."""
    code = (
        "import sys, time\nfrom h1r import LLM, SamplingParams\nfrom h1r.types import Prompt\n"
        "llm = LLM(sys.argv[1], kernel='torch')\n"
        "llm.submit(Prompt(token_ids=tuple(range(3, 40))), SamplingParams(max_tokens=3000, n=16, ignore_eos=True))\n"
        "time.sleep(0.5)\nprint('end')\n"
    )
    nano = Path(__file__).parents[2] / "models" / "nano"
    done = subprocess.run([sys.executable, "-c", code, str(nano)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr[-1000:]
