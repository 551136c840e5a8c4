"""Protocols: what a published table says about how its numbers were made, as data in recipes/protocols/.

    protocol = read("falcon-h1r")                       # frozen, unknown keys refused
    terms = terms_of(protocol, SUITES["aime25"])        # what holds for one suite; a run may change any of it
    deviations(terms_of(protocol, suite), used, ...)    # every difference between that and what was run, in words

A value that is null (or absent) is left open by the source: the suite's own default is used, and using another is no
deviation. Prompts are as published where the source prints them; `note` says where it does not.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from h1r import config
from h1r.errors import ConfigError
from h1r.evals.suite import Suite
from h1r.types import Problem, SamplingParams

FOLDER = "protocols"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How one suite is asked and scored.

    samples, max_tokens, temperature, top_p   None: left open
    system     the system message; "" none, None: left open (the model's own default)
    prompt     template of the user turn; None: left open (the suite's)
    extractor  chain: every pattern in its order; strict: only an answer in the form asked for counts
    grader     fixed or official: how programs and instructions are compared; None: the verifier's own choice
    judge      the language model that decides where no program can; "" none
    partner    the language model that plays somebody (tau2's customer); "" none
    options    of the suite: a window of contests, a length
    note       what the source leaves to the reader
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    samples: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    system: str | None = None
    prompt: str | None = None
    extractor: str = "chain"
    grader: str | None = None
    judge: str = ""
    partner: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        for name, known in (("extractor", ("chain", "strict")), ("grader", (None, "fixed", "official"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}={getattr(self, name)!r}: use {' or '.join(k for k in known if k)}")
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"samples={self.samples}: must be 1 or more")

    def sampling(self, suite: Suite, *, seed: int | None = None) -> SamplingParams:
        """Sampling parameters, the suite's own where these terms leave one open."""
        own = suite.sampling(seed=seed)
        given = {n: getattr(self, n) for n in ("max_tokens", "temperature", "top_p")}
        return replace(own, **{n: v for n, v in given.items() if v is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A protocol: its source, what holds for all suites, and what each suite adds or changes."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    source: str
    suites: Mapping[str, Terms]
    temperature: float | None = None
    top_p: float | None = None
    system: str | None = None


def names() -> list[str]:
    """The protocols that are packaged."""
    return sorted(p.stem for p in (config.recipes_folder() / FOLDER).glob("*.yaml"))


def read(name: str, overrides: Sequence[str] = ()) -> Protocol:
    """A packaged protocol by name, or a YAML file. overrides: `suites.aime25.samples=4`. Raises ConfigError."""
    known = names()
    if name not in known and not name.endswith((".yaml", ".yml")):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}, or a YAML file"
        raise ConfigError(f"--protocol {name!r}: no such protocol; {hint}")
    return config.read(f"{FOLDER}/{name}" if name in known else name, Protocol, overrides)


def terms_of(protocol: Protocol, suite: str) -> Terms | None:
    """The terms of one suite, the protocol's general ones filled in; None when the protocol does not have it."""
    own = protocol.suites.get(suite)
    if own is None:
        return None
    general = {n: getattr(protocol, n) for n in ("temperature", "top_p", "system") if getattr(own, n) is None}
    return replace(own, **general)


def changed(terms: Terms, **given: Any) -> Terms:
    """Terms with what a run asks for instead; None changes nothing."""
    return replace(terms, **{k: v for k, v in given.items() if v is not None})


def with_system(problems: Sequence[Problem], system: str | None) -> list[Problem]:
    """Problems with the protocol's system message in front; a problem that brings one of its own keeps it."""
    if not system:
        return list(problems)
    first = {"role": "system", "content": system}
    return [p if p.messages[0].get("role") == "system" else replace(p, messages=(first, *p.messages)) for p in problems]


def deviations(
    published: Terms | None,
    used: Terms,
    *,
    problems: Sequence[Problem],
    expected: int = 0,
    found: int | None = None,
    judge: str = "",
    partner: str | None = None,
) -> list[str]:
    """Every way in which a run departs from its protocol, one phrase each.

    problems: those asked; found: how many the data hold (more than asked: a limit); expected: the whole benchmark's.
    judge: the judge that was there, "" for none; partner: the model that played somebody, None where nobody is played.
    """
    if published is None:
        return ["not part of the protocol: the suite's own settings"]
    said = []
    for name in ("samples", "max_tokens", "temperature", "top_p", "extractor", "grader"):
        before, now = getattr(published, name), getattr(used, name)
        if before is not None and now != before:
            said.append(f"{name} {now} instead of {before}")
    for name in ("system", "prompt"):
        before, now = getattr(published, name), getattr(used, name)
        if before is not None and now != before:
            said.append(f"another {'system message' if name == 'system' else name}")
    for key in sorted(published.options.keys() | used.options.keys()):
        before, now = published.options.get(key), used.options.get(key)
        if before != now:
            said.append(f"{key} {now} instead of {before}")
    whole = len(problems) if found is None else found
    if len(problems) < whole:
        said.append(f"the first {len(problems)} of {whole} problems")
    if expected and whole != expected:
        said.append(f"the data hold {whole} of {expected} problems")
    if partner is not None and published.partner and partner != published.partner:
        said.append(f"the customer played by {partner or 'nobody'} instead of {published.partner}")
    return said + _judged(published.judge, judge, sum(p.kind == "judge" for p in problems))


def _judged(wanted: str, judge: str, count: int) -> list[str]:
    if not count:
        return []
    if not judge:
        by = f" by {wanted}" if wanted else ""
        return [f"{count} problems need a judge{by} and none was given: unscored"]
    return [f"judge {judge} instead of {wanted}"] if wanted and judge != wanted else []


def record(protocol: Protocol, suite: str, used: Terms, said: Sequence[str], **facts: Any) -> dict[str, Any]:
    """What a run writes down beside its scores."""
    told = {"suite": suite, "protocol": protocol.name, "source": protocol.source, "deviations": list(said)}
    return told | asdict(used) | facts
