import json

import numpy as np
import pytest

from h1r import log
from h1r.errors import DataError
from h1r.types import StopReason


def test_append_then_read_gives_the_records_back(tmp_path):
    path = tmp_path / "a" / "m.jsonl"
    log.append(path, {"x": 1}, {"y": np.float32(0.5), "z": np.arange(3), "s": StopReason.LENGTH, "t": "Köln"})
    log.append(path, {"x": 2})
    assert list(log.read(path)) == [{"x": 1}, {"y": 0.5, "z": [0, 1, 2], "s": "length", "t": "Köln"}, {"x": 2}]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_tail_is_dropped_and_overwritten(tmp_path, cut):
    path = tmp_path / "m.jsonl"
    log.append(path, {"x": 1}, {"x": 2})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    survivors = [r["x"] for r in log.read(path)]
    assert survivors == ([1] if cut < 10 else [])
    log.append(path, {"x": 3})
    assert [r["x"] for r in log.read(path)] == [*survivors, 3]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"x": 1}\n{oops\n{"x": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        list(log.read(path))
    path.write_text("[1]\n")
    with pytest.raises(DataError, match="object was expected"):
        list(log.read(path))


def test_write_is_whole_or_absent(tmp_path):
    path = tmp_path / "w.jsonl"
    assert log.write(path, ({"i": i} for i in range(3))) == 3

    def broken():
        yield {"i": 9}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        log.write(path, broken())
    assert [json.loads(x)["i"] for x in path.read_text().splitlines()] == [0, 1, 2]


def test_missing_file_reads_as_empty(tmp_path):
    assert list(log.read(tmp_path / "none.jsonl")) == []


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert log.write(path, [{"a": 1}]) == 1

    def rows():
        yield {"a": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log.write(path, rows())
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"] and list(log.read(path)) == [{"a": 1}]
