"""Many files, many processes: the same result, and only unfinished files again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from h1r import log
from h1r.data import procedural, read, write
from h1r.data.shards import transform
from h1r.errors import ConfigError, DataError


def keep_math(problems):
    return (p for p in problems if p.domain == "math")


def explode_on_third(problems):
    for i, p in enumerate(problems):
        if i == 3:
            raise KeyboardInterrupt
        yield p


def corpus(folder: Path, files: int = 4) -> list[Path]:
    for k in range(files):
        write(folder / f"part-{k}.jsonl", [procedural.sample(100 * k + i) for i in range(30)])
    return sorted(folder.glob("*.jsonl"))


def test_processes_give_the_same_files(tmp_path):
    files = corpus(tmp_path / "in")
    one = sorted(transform(files, tmp_path / "one", keep_math))
    two = sorted(transform(files, tmp_path / "two", keep_math, processes=2))
    assert [s[2:5] for s in one] == [s[2:5] for s in two] and all(s.read == 30 and 0 < s.written < 30 for s in one)
    for s, t in zip(one, two, strict=True):
        assert Path(s.path).read_bytes() == Path(t.path).read_bytes()
        assert s.tokens > 5 * s.written and s.seconds > 0
    assert sum(1 for _ in read(tmp_path / "one")) == sum(s.written for s in one)


def test_a_killed_run_repeats_only_what_was_not_finished(tmp_path):
    files, out = corpus(tmp_path / "in"), tmp_path / "out"
    first = next(iter(transform(files, out, keep_math)))
    with pytest.raises(KeyboardInterrupt):
        list(transform(files, out, explode_on_third))
    assert [p.name for p in out.glob("*.jsonl")] == ["part-0.jsonl"]
    done = list(transform(files, out, keep_math))
    assert [s.seconds > 0 for s in sorted(done)] == [False, True, True, True]
    assert done[0][:5] == first[:5]
    assert all(s.seconds > 0 for s in transform(files, out, keep_math, version="2"))


SLOW = """
import sys, time
from pathlib import Path
from h1r.data.shards import transform

def dawdle(problems):
    for p in problems:
        yield p
        time.sleep(600)

if __name__ == "__main__":
    list(transform(sorted(Path("in").glob("*.jsonl")), "out", dawdle, processes=2))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_run_leaves_no_process_and_in_the_end_no_torn_file(tmp_path, how):
    """Four files, two at work: none waits for its turn, or for the end of those at work."""
    files, out = corpus(tmp_path / "in"), tmp_path / "out"
    (tmp_path / "slow.py").write_text(SLOW)
    run = subprocess.Popen([sys.executable, "slow.py"], cwd=tmp_path, stderr=subprocess.PIPE)
    wait(lambda: len(list(out.glob(".*.tmp.*"))) == 2)
    workers = [int(p.name[1:].partition(".")[0]) for p in out.glob(".*.tmp.*")]
    assert len(set(workers)) == 2
    run.send_signal(how)
    _, said = run.communicate(timeout=20)
    assert run.returncode != 0 and (how == signal.SIGKILL or b"KeyboardInterrupt" in said)
    wait(lambda: not any(log.alive(pid) for pid in workers))
    assert len(list(out.iterdir())) == (2 if how == signal.SIGKILL else 0)
    assert len(list(transform(files, out, keep_math))) == 4
    assert not list(out.glob(".*.tmp.*"))


def wait(until):
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_commands_take_a_folder_to_a_folder(tmp_path, capsys):
    """Resumable; with other options again; what cannot be is told."""
    from h1r.cli import data as commands

    corpus(tmp_path / "in", files=2)
    options = {"max_tokens": 0, "tokenizer": None, "box": True, "keep_incorrect": 0.0, "check": True, "workers": 1}
    source, out = str(tmp_path / "in"), str(tmp_path / "out")
    commands.filter_(source, out, **options)
    first = capsys.readouterr().out
    assert "tokens a second" in first and "60 of 60 problems" in first.splitlines()[-1]
    (tmp_path / "out" / "part-1.jsonl").unlink()
    commands.filter_(source, out, **options)
    again = capsys.readouterr().out.splitlines()
    assert "finished before" in again[0] and "a second" in again[1] and again[2].endswith("2 files, 1 finished before")
    commands.filter_(source, out, **options | {"max_tokens": 30})
    assert "finished before" not in capsys.readouterr().out
    commands.convert(source, str(tmp_path / "own"), format="", limit=None, workers=1)
    assert [p.id for p in read(tmp_path / "own")] == [p.id for p in read(source)]
    for wrong, where, say in (
        (source, source, "among what they are made from"), (f"{source}/part-0.jsonl", out, "results of a folder"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=say):
            commands.filter_(wrong, where, **options)


def test_errors_keep_their_file_and_line(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "kind": "math", "messages": []}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 1, field 'messages'"):
        list(transform([tmp_path / "bad.jsonl"], tmp_path / "out", keep_math))
    with pytest.raises(ConfigError, match=r"two input files would give bad\.jsonl"):
        list(transform([tmp_path / "bad.jsonl", tmp_path / "in" / "bad.jsonl"], tmp_path / "out", keep_math))
