"""Data ranks, context ranks, cut weights, packing, accumulation, recomputation: none of them moves a loss or a norm."""

from __future__ import annotations

from pathlib import Path

import pytest

from h1r.errors import ConfigError
from h1r.train.ranks import Ranks, ShardConfig, join
from h1r.train.shard import refuse
from launch import launch

PROGRAM = str(Path(__file__).with_name("shard_program.py"))


@pytest.mark.parametrize(
    ("size", "contexts"),
    [
        pytest.param(2, "1,2", id="2 ranks"),
        pytest.param(3, "3", id="3 ranks", marks=pytest.mark.slow),
        pytest.param(6, "2,3", id="6 ranks", marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(300)
def test_how_the_work_is_shared_moves_no_number(size, contexts):
    for code, err in launch([PROGRAM, contexts], size):
        assert code == 0, err


def test_what_cannot_be_shared_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"shard.weights='cut': must be whole or sharded"):
        ShardConfig(weights="cut")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"shard.context=3 does not divide the 4 processes: .*nproc_per_node=3"):
        join(ShardConfig(context=3))
    for loss, correction in (("gspo", "tis"), ("grpo", "sequence_mask")):
        with pytest.raises(ConfigError, match=f"loss={loss}, correction={correction}"):
            refuse(loss, correction, Ranks(0, 2, 2))
        refuse(loss, correction, Ranks(0, 2, 1))
    refuse("grpo", "tis", Ranks(0, 2, 2))
