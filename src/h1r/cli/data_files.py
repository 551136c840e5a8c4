"""`h1r data ...` over a folder of files: one output file for each, by several processes, resumable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from h1r.errors import ConfigError, DataError

if TYPE_CHECKING:
    from h1r.data import FilterConfig
    from h1r.types import Problem


def folders(source: str, out: str) -> list[Path]:
    """The files of `source` when `out` names a folder (it is one, or ends in none of the known endings); else none.

    Raises ConfigError when the result is a folder and the source is none.
    """
    from h1r.data.readers import ENDINGS

    if out.endswith(ENDINGS):
        return []
    if not Path(source).is_dir():
        raise ConfigError(
            f"{out}: a folder takes the results of a folder, and {source} is none; end --out in {', '.join(ENDINGS)}"
        )
    found = sorted(f for f in Path(source).iterdir() if f.name.endswith(ENDINGS) and f.name[0] != ".")
    if not found:
        raise DataError(f"{source}: no file in this folder ends in {', '.join(ENDINGS)}")
    if Path(out).resolve() == Path(source).resolve():
        raise ConfigError(f"{out}: the results would lie among what they are made from; give another folder")
    return found


@dataclass(frozen=True)
class Filter:
    """`data.curate` of one file, where the process is the unit of work."""

    settings: FilterConfig
    tokens: Callable[[str], int] | None
    correct: Callable[[Problem], bool | None] | None

    def __call__(self, problems: Iterator[Problem]) -> Iterable[Problem]:
        from h1r.data import curate

        return curate(problems, self.settings, count=self.tokens, correct=self.correct)


def same(problems: Iterator[Problem]) -> Iterable[Problem]:
    """What conversion does beyond reading: nothing."""
    return problems


def over(
    files: list[Path], out: str, work: Callable[[Iterator[Problem]], Iterable[Problem]], *, workers: int, version: str,
    count: Callable[[str], int] | None = None, format: str = "",
) -> str:  # fmt: skip
    """Do it, a line per finished file; the sum as a line. What was finished before with the same `version` and input stays."""
    from h1r.data.shards import transform

    sums: Counter[str] = Counter()
    seconds = 0.0
    for done in transform(
        files, out, work, processes=min(workers, len(files)), version=version, count=count, format=format
    ):
        told = f"{done.tokens / done.seconds:,.0f} tokens a second" if done.seconds else "finished before"
        print(f"{done.path}: {done.written} of {done.read} problems, {done.tokens:,} tokens ({told})", flush=True)
        sums.update(read=done.read, written=done.written, tokens=done.tokens, before=not done.seconds)
        seconds += done.seconds
    before = f", {sums['before']} finished before" if sums["before"] else ""
    return (
        f"{out}: {sums['written']} of {sums['read']} problems, {sums['tokens']:,} tokens in {len(files)} files{before}"
    )
