"""Which problems a step works on: every stratum (domain and difficulty) in every step, seeded and resumable.

One difficulty per step makes a small model forget the others; so each draw shares its places among all strata. With a
curriculum a stratum's share follows its running pass rate p as floor + 4 p (1 - p): most for what is half solved. Environments
(meta["environment"]) have fixed shares of every step, which their strata divide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from h1r.errors import ConfigError
from h1r.types import Problem


def environment(problem: Problem) -> str:
    """The environment a problem belongs to; "" where there is but one."""
    return str(problem.meta.get("environment", ""))


def stratum(problem: Problem) -> str:
    """domain/difficulty, the difficulty to one decimal; before it the environment where there are several."""
    level = "" if problem.difficulty is None else f"/{problem.difficulty:.1f}"
    where = environment(problem)
    return f"{where}:{problem.domain or problem.kind}{level}" if where else f"{problem.domain or problem.kind}{level}"


class Sampler:
    """Draws problems without replacement within each stratum's seeded order, epoch after epoch.

    State is a few numbers per stratum: the credit owed to it, how many were drawn, its running pass rate.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        seed: int,
        *,
        curriculum: bool = False,
        floor: float = 0.25,
        memory: float = 0.9,
        stratum_of: Callable[[Problem], str] = stratum,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        """memory: how much of the running pass rate survives one group. shares: of each environment, in a step; equal strata
        without."""
        if not problems:
            raise ConfigError("no problems to train on: the list is empty")
        self._seed, self._curriculum, self._floor, self._memory = seed, curriculum, floor, memory
        self._stratum_of = stratum_of
        self._strata: dict[str, list[Problem]] = {}
        for problem in problems:
            self._strata.setdefault(stratum_of(problem), []).append(problem)
        self._strata = dict(sorted(self._strata.items()))
        self._shares = dict(shares or {})
        self._environment = {name: environment(found[0]) for name, found in self._strata.items()}
        if missing := sorted(set(self._environment.values()) - self._shares.keys()) if self._shares else []:
            raise ConfigError(
                f"environments without a share: {', '.join(missing)}; known are {', '.join(self._shares)}"
            )
        if self._shares and not any(self._shares[e] > 0 for e in self._environment.values()):
            raise ConfigError("every environment that has problems has a share of 0: nothing would be drawn")
        self._owed = {name: 0.0 for name in sorted(set(self._environment.values())) if self._shares.get(name, 1.0) > 0}
        self._credit = dict.fromkeys(self._strata, 0.0)
        self._drawn = dict.fromkeys(self._strata, 0)
        self._rate: dict[str, float] = {}

    @property
    def strata(self) -> list[str]:
        """Names, sorted."""
        return list(self._strata)

    def draw(self, count: int) -> list[Problem]:
        """The next `count` problems: every environment its share, and within it every stratum by weight; what one is owed carries
        over to the next draw."""
        whole = sum(self._shares.get(name, 1.0) for name in self._owed)
        for name in self._owed:
            self._owed[name] += count * self._shares.get(name, 1.0) / whole
        places = dict.fromkeys(self._owed, 0)
        for _ in range(count):
            name = max(self._owed, key=lambda n: self._owed[n])
            self._owed[name] -= 1
            places[name] += 1
        return [problem for name, many in places.items() for problem in self._draw(name, many)]

    def _draw(self, environment: str, count: int) -> list[Problem]:
        weights = {name: self.weight(name) for name in self._strata if self._environment[name] == environment}
        total = sum(weights.values())
        for name, weight in weights.items():
            self._credit[name] += count * weight / total
        out = []
        for _ in range(count):
            name = max(weights, key=lambda n: self._credit[n])
            self._credit[name] -= 1
            out.append(self._next_of(name))
        return out

    def weight(self, name: str) -> float:
        """A stratum's share before normalisation."""
        if not self._curriculum or name not in self._rate:
            return 1.0
        rate = self._rate[name]
        return self._floor + 4 * rate * (1 - rate)

    def record(self, problem: Problem, rate: float) -> None:
        """Take the pass rate of one group into its stratum's running rate."""
        name = self._stratum_of(problem)
        self._rate[name] = self._memory * self._rate.get(name, rate) + (1 - self._memory) * rate

    def state(self) -> dict[str, Any]:
        return {
            "owed": dict(self._owed),
            "credit": dict(self._credit),
            "drawn": dict(self._drawn),
            "rate": dict(self._rate),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if set(state["credit"]) != set(self._strata):
            raise ConfigError("the problems changed since this run began (other strata): start a new run folder")
        self._credit, self._drawn, self._rate = dict(state["credit"]), dict(state["drawn"]), dict(state["rate"])
        self._owed |= {name: value for name, value in state.get("owed", {}).items() if name in self._owed}

    def _next_of(self, name: str) -> Problem:
        problems = self._strata[name]
        epoch, place = divmod(self._drawn[name], len(problems))
        self._drawn[name] += 1
        order = np.random.default_rng((self._seed, self.strata.index(name), epoch)).permutation(len(problems))
        return problems[int(order[place])]
