"""Operators over ranks equal the whole row, forward and backward, wherever the cuts fall."""

from __future__ import annotations

from pathlib import Path

import pytest

from h1r.ops.ring import shard
from launch import launch

PROGRAM = str(Path(__file__).with_name("ring_program.py"))


@pytest.mark.parametrize("size", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))])
def test_every_operator_over_ranks_equals_the_whole(size):
    for code, err in launch([PROGRAM], size):
        assert code == 0, err


def test_shares_know_where_documents_were_cut():
    rings = [shard((5, 90, 2, 1), None, rank, 4).ring for rank in range(4)]
    assert {r.bounds for r in rings} == {(0, 24, 49, 73, 98)}
    assert [r.past for r in rings] == [0, 19, 44, 68]
    assert rings[0].continues == (False, True, True, True)
    assert rings[0].single == (False, True, True, False)
    last = shard((5, 90, 2, 1), None, 3, 4)
    assert last.lengths == (22, 2, 1) and last.positions.tolist() == [*range(68, 90), 0, 1, 0]
    assert shard((4, 4), None, 1, 2).ring.past == 0
