"""What `h1r eval` is about to do: the suites a protocol names or the user picks, their terms and their problems."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.errors import ConfigError, DataError

if TYPE_CHECKING:
    from h1r.evals import Suite
    from h1r.evals.protocol import Protocol, Terms
    from h1r.types import Problem

DEFAULT = "falcon-h1r"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One suite: published is what the protocol says (None: it does not have this suite), used is what will be run;
    problems are those asked, found how many the data hold; data: their files' checksums."""

    suite: Suite
    published: Terms | None
    used: Terms
    problems: list[Problem]
    found: int
    about: str = ""
    data: Mapping[str, str] = field(default_factory=dict)

    def deviations(self, judge: str, partner: str = "") -> list[str]:
        from h1r.evals import protocol

        return protocol.deviations(
            self.published, self.used, problems=self.problems, expected=self.suite.expected, found=self.found, judge=judge,
            partner=partner if self.suite.agent and self.suite.agent.partner else None,
        )  # fmt: skip


def plan(
    names: str,
    protocol: str | None,
    settings: Sequence[str],
    model: str,
    data_dir: str | None,
    limit: int | None,
    changes: Mapping[str, Any],
    partner: bool = False,
) -> tuple[Protocol, list[Task], list[str]]:
    """The protocol, its tasks, and why suites were left out. A suite asked for by name must have its data; of a whole
    protocol, those without are named and skipped. Raises ConfigError or DataError."""
    from h1r.evals import SUITES
    from h1r.evals import protocol as protocols

    printed = protocols.read(protocol or DEFAULT)
    chosen = protocols.read(protocol or DEFAULT, settings) if settings else printed
    asked = [n.strip() for n in names.split(",") if n.strip()]
    whole = not asked and protocol is not None
    tasks, left = [], []
    for name in asked or (list(printed.suites) if whole else ["quickstart"]):
        if name not in SUITES:
            if not whole:
                raise ConfigError(unknown(name, SUITES))
            left.append(f"{name}: {printed.name} has it, `h1r eval` does not")
            continue
        needs = SUITES[name].agent
        if needs is not None and needs.partner and not partner:
            words = f"{name} needs a model that plays the customer: --partner URL --partner-name NAME"
            if not whole:
                raise ConfigError(words)
            left.append(words)
            continue
        terms = protocols.terms_of(chosen, name) or protocols.Terms()
        used = protocols.changed(terms, **changes)
        try:
            tasks.append(_task(SUITES[name], protocols.terms_of(printed, name), used, model, data_dir, limit))
        except DataError as e:
            if not whole:
                raise
            left.append(str(e))
    if not tasks:
        raise DataError(f"no suite of {printed.name} has its data here: {'; '.join(left)}")
    return printed, tasks, left


def unknown(name: str, known: Mapping[str, Any]) -> str:
    """The message for a suite that is not there."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
    return f"--suite {name!r}: no such suite; {hint}"


def _task(
    suite: Suite, published: Terms | None, used: Terms, model: str, data_dir: str | None, limit: int | None
) -> Task:
    """The suite with its problems under the terms; by default the data lie beside the model."""
    from h1r.evals import protocol

    folder = Path(data_dir) if data_dir else Path(model).parent if Path(model).is_dir() else Path(".")
    options = _options(suite, used, model)
    found = suite.load(folder, prompt=used.prompt or "", options=options)
    return Task(
        suite=suite,
        published=published,
        used=used,
        problems=protocol.with_system(found[:limit] if limit else found, used.system),
        found=len(found),
        about=suite.about(found, options) if suite.about else "",
        data=suite.checksums(folder),
    )


def _options(suite: Suite, terms: Terms, model: str) -> dict[str, Any]:
    """The suite's options under the terms; how to count tokens, where the model's tokenizer lies beside it."""
    chosen: dict[str, Any] = {k: v for k, v in terms.options.items() if v is not None}
    if "count" in suite.options and (Path(model) / "tokenizer.json").is_file():
        from h1r.text import Tokenizer

        tokenizer = Tokenizer.from_folder(model)
        chosen["count"] = lambda text: len(tokenizer.encode(text))
    return chosen
