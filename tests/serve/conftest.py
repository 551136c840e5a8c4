"""A tiny random checkpoint with a small tokenizer, served in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from h1r import model, text
from h1r.engine import LLM
from h1r.model import H1Config
from h1r.serve import app

CORPUS = ["What is 2+2? The answer is 4.", "add the numbers", '{"name": "f"}', "user assistant system"] * 3


def answer_of(trace):
    """The length of the text, modulo three: an answer every random trace has."""
    return str(len(trace.text) % 3)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, width 32, random; every multiplier different from one."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = text.train(CORPUS, 300)
    config = H1Config(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, mamba_d_ssm=32, mamba_n_heads=2, mamba_d_head=16,
        mamba_d_state=8, mamba_norm_before_gate=False, mamba_rms_norm=True, max_position_embeddings=1024,
        embedding_multiplier=5.0, lm_head_multiplier=2.0, attention_in_multiplier=1.1, attention_out_multiplier=0.9,
        key_multiplier=0.7, ssm_in_multiplier=1.2, ssm_out_multiplier=0.8, ssm_multipliers=(0.9, 1.1, 1.2, 0.8, 1.3),
        mlp_multipliers=(1.2, 0.7), initializer_range=0.3, eos_token_id=tokenizer.stop_ids[0],
    )  # fmt: skip
    model.save(model.build(config, seed=3), folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def llm(checkpoint: Path) -> LLM:
    return LLM(checkpoint, dtype="float32", memory_bytes=64 << 20, seed=1)


@pytest.fixture
def client(llm: LLM) -> Iterator[TestClient]:
    made = app(llm, "tiny", answer_of=answer_of, admin_keys=["administrator"])
    with TestClient(made) as connected:
        yield connected
    llm.loop.call(lambda engine: engine.check_integrity())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak-seconds", type=float, default=120, help="how long test_soak looks at memory")
    parser.addoption("--soak-model", help="a checkpoint folder instead of the tiny one")
