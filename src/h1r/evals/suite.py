"""A benchmark: where its problems lie, how they are asked, and how often. The files of `suites/` each hold one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from h1r.data.readers import records
from h1r.errors import ConfigError, DataError
from h1r.evals.chain import Chain
from h1r.evals.episodes import Agent
from h1r.evals.results import Item, Result, result
from h1r.types import Message, Problem, SamplingParams


class Source(NamedTuple):
    """Where a benchmark's data comes from: its Hub id, its licence, and the folder to put it in.

    patterns  file patterns relative to the data folder; the first that matches is read
    how       what to do instead of a download from the Hub
    """

    hub: str
    licence: str
    folder: str
    patterns: tuple[str, ...]
    gated: bool = False
    how: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A benchmark under the Falcon-H1R protocol (arXiv:2601.02346, section 4); a run may override every default.

    read      the problem of one row, its prompt template filled in; None leaves the row out
    prompt    template of the user turn; {words in braces} are filled by `fill`
    samples, max_tokens, temperature, top_p   of the protocol
    group     math, code & agentic, general, or own
    expected  how many problems the complete benchmark has, 0 when that is open
    options   what `load` may be told beside the folder, with its defaults
    make      (suite, data folder, prompt, options) -> problems, where a row is not a problem; `read` is then unused
    about     what the problems at hand are, in words, where a name alone does not say it
    chain     how later problems depend on what was written for earlier ones
    agent     how a problem is played over many turns and scored, where it is
    views     other figures from the same items: name -> (problems, items) -> the items that count
    """

    name: str
    title: str
    group: str
    source: Source
    prompt: str
    read: Callable[[Mapping[str, Any], Row, str], Problem | None] | None = None
    samples: int = 1
    max_tokens: int = 32768
    temperature: float = 0.6
    top_p: float = 0.95
    expected: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[Suite, Path, str, Mapping[str, Any]], list[Problem]] | None = None
    about: Callable[[Sequence[Problem], Mapping[str, Any]], str] | None = None
    chain: Chain | None = None
    agent: Agent | None = None
    views: Mapping[str, Callable[[Sequence[Problem], Sequence[Item]], list[Item]]] = field(default_factory=dict)

    def load(
        self, data_dir: str | Path, *, prompt: str = "", options: Mapping[str, Any] | None = None
    ) -> list[Problem]:
        """The problems found under `data_dir`, in order. Raises DataError: what to fetch, where to put it."""
        template = prompt or self.prompt
        for name in options or {}:
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise ConfigError(f"{self.name} has no option {name!r}; its options: {known}")
        if self.make is not None:
            problems = self.make(self, Path(data_dir), template, {**self.options, **(options or {})})
        else:
            assert self.read is not None, self.name
            read = [self.read(record, row, template) for record, row in self.rows(Path(data_dir))]
            problems = [p for p in read if p is not None]
        twice = len(problems) - len({p.id for p in problems})
        if twice:
            raise DataError(f"{self.name}: {twice} problems appear twice under {data_dir}; keep one copy of the data")
        return problems

    def sampling(self, *, seed: int | None = None) -> SamplingParams:
        """The protocol's sampling parameters."""
        return SamplingParams(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, seed=seed)

    def files(self, data_dir: Path) -> list[Path]:
        """The files of the first pattern that matches; `data_dir` itself when it is a file."""
        if data_dir.is_file():
            return [data_dir]
        if not data_dir.exists():
            raise DataError(f"data folder {data_dir}: no such folder; give the folder that holds the benchmarks")
        for pattern in self.source.patterns:
            exact = data_dir / pattern
            if found := [exact] if exact.is_file() else sorted(data_dir.glob(pattern)):
                return found
        raise DataError(self.missing(data_dir))

    def further(self, problems: Sequence[Problem], items: Sequence[Item]) -> list[Result]:
        """The other figures (`views`) that these items give; of group own, so that no published mean counts twice."""
        found = ((name, view(problems, items)) for name, view in self.views.items())
        return [result(name, kept, group="own") for name, kept in found if kept]

    def checksums(self, data_dir: str | Path) -> dict[str, str]:
        """The data files' names and the first 16 hex digits of their SHA-256; nothing for a suite made by rule."""
        if not self.source.patterns:
            return {}
        return {file.name: _sha256(file) for file in self.files(Path(data_dir))}

    def missing(self, data_dir: Path) -> str:
        """What to do when the data is not there."""
        s = self.source
        gate = " (gated: accept its terms on its page first)" if s.gated else ""
        if s.how:
            where = f"into {data_dir / s.folder} (licence {s.licence}): " if s.licence else ""
            return f"{self.name}: no data under {data_dir}, looked for {', '.join(s.patterns)}; {where}{s.how}"
        return (
            f"{self.name}: no data under {data_dir}, looked for {', '.join(s.patterns)}; "
            f"fetch the dataset {s.hub}, licence {s.licence}{gate}: "
            f"hf download --repo-type dataset {s.hub} --local-dir {data_dir / s.folder}"
        )

    def rows(self, data_dir: Path) -> Iterator[tuple[Mapping[str, Any], Row]]:
        """Records of the data files, with where each came from."""
        for file in self.files(data_dir):
            raw = _csv(file) if file.suffix == ".csv" else ((r, w.number) for r, w in records(file))
            for record, number in raw:
                yield record, Row(self.name, str(file), number)


class Row(NamedTuple):
    """Where a record came from, for messages."""

    suite: str
    path: str
    number: int

    def field(self, record: Mapping[str, Any], *names: str) -> Any:
        """The first of `names` the record has. Raises DataError naming file, row and the columns there are."""
        for name in names:
            if record.get(name) is not None:
                return record[name]
        raise DataError(
            f"{self.path}, row {self.number}: {self.suite} needs a column {' or '.join(names)}; "
            f"found {', '.join(map(str, record))}"
        )


def fill(template: str, **words: str) -> str:
    """Put words in place of {name}; other braces, which LaTeX is full of, stay as they are."""
    pattern = re.compile("|".join(re.escape("{" + name + "}") for name in words))
    return pattern.sub(lambda m: words[m.group()[1:-1]], template)


def ask(text: str) -> tuple[Message, ...]:
    """One user turn."""
    return ({"role": "user", "content": text},)


def solved(text: str) -> tuple[Message, ...]:
    """One assistant turn: a worked reply."""
    return ({"role": "assistant", "content": text},)


def statement_id(suite: str, statement: str) -> str:
    """An id from the normalised statement: sources order and number the same problems differently."""
    letters = re.sub(r"\W+", "", statement.lower())
    return f"{suite}-{hashlib.sha256(letters.encode()).hexdigest()[:12]}"


def letters(count: int) -> str:
    """A/B/C/D for as many options as there are."""
    return "/".join(chr(ord("A") + i) for i in range(count))


def choices(options: Sequence[str]) -> str:
    """Options, one per line: A) ..."""
    return "\n".join(f"{chr(ord('A') + i)}) {option}" for i, option in enumerate(options))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def _csv(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    import csv

    with open(path, newline="", encoding="utf-8") as f:
        yield from ((row, number) for number, row in enumerate(csv.DictReader(f), 1))


BOXED = (
    "Solve the following math problem step by step. Put your answer inside \\boxed{}.\n\n{problem}\n\n"
    "Remember to put your answer inside \\boxed{}."
)
"""Artificial Analysis' prompt for mathematics."""

CHOICE = (
    "Answer the following multiple choice question. The last line of your response should be in the following format: "
    "'Answer: {letters}' (e.g. 'Answer: A').\n\n{question}\n\n{options}"
)
"""Artificial Analysis' prompt for multiple choice."""
