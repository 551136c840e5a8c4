"""Difficulty table, bands, RL filter, mixture and token mass: numbers by hand, resume to the draw."""

from __future__ import annotations

from collections import Counter

import pytest

from h1r.data import (
    Attempt,
    BandConfig,
    Entry,
    Mixture,
    RlFilterConfig,
    Source,
    describe,
    difficulty,
    procedural,
    source,
    stratify,
)
from h1r.errors import ConfigError, DataError
from h1r.types import Problem


def make(name: str, domain: str = "math", hard: float | None = None, reply: str = "a b c") -> Problem:
    turn = {"role": "assistant", "content": reply}
    return Problem(
        id=name,
        messages=({"role": "user", "content": name},),
        kind="math",
        domain=domain,
        difficulty=hard,
        solution=(turn,),
    )


def tries(right: int, of: int = 8, answers=None, truncated=False) -> list[Attempt]:
    given = answers or [str(i) for i in range(of - right)]
    return [Attempt("gold", True)] * right + [Attempt(a, False, truncated) for a in given]


def test_table_survives_a_kill_and_is_not_measured_twice(tmp_path):
    path = tmp_path / "difficulty.jsonl"
    problems = [make(str(i)) for i in range(10)]
    asked: list[str] = []

    def attempt(batch):
        asked.extend(p.id for p in batch)
        if len(asked) > 6:
            raise KeyboardInterrupt
        return [tries(int(p.id) % 9) for p in batch]

    with pytest.raises(KeyboardInterrupt):
        list(difficulty.measure(problems, attempt, path, batch=3))
    assert set(difficulty.read(path)) == {"0", "1", "2", "3", "4", "5"}
    done = list(difficulty.measure(problems, lambda ps: [tries(int(p.id) % 9) for p in ps], path, batch=3))
    assert [p.id for p, _ in done] == ["6", "7", "8", "9"]
    table = difficulty.read(path)
    assert table["2"] == Entry(0.75, 0.25, 8, "", agreed=2) and table["8"].difficulty == 0 and len(table) == 10


def test_a_broken_entry_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"id": "a", "difficulty": 0.5}\n{"id": "b"}\n')
    with pytest.raises(DataError, match="line 2, field 'difficulty'"):
        difficulty.read(tmp_path / "t.jsonl")


def test_difficulty_from_lengths_and_labels():
    lengths = {"a": 10, "b": 20, "c": 20, "d": 40, "e": 999}
    table = difficulty.from_lengths(lengths, {**dict.fromkeys("abcd", "math"), "e": "code"})
    assert [round(table[k].difficulty, 4) for k in "abcde"] == [0, 0.5, 0.5, 1, 0.5]
    labels = difficulty.from_labels({"a": "hard", "b": 0.2, "c": "Easy"})
    assert [labels[k].difficulty for k in "abc"] == [1, 0.2, 0]
    with pytest.raises(DataError, match="'tough'"):
        difficulty.from_labels({"a": "tough"})


def test_bands_and_weights():
    config = BandConfig(hard=1.75, easy=0)
    found = [difficulty.band(d, config) for d in (0, 0.24, 0.25, 0.74, 0.75, 1, None)]
    assert found == ["easy", "easy", "medium", "medium", "hard", "hard", "medium"]
    assert [difficulty.weight(d, config) for d in (0.1, 0.5, 0.9)] == [0, 1, 1.75]
    with pytest.raises(ConfigError, match="easy_below"):
        BandConfig(easy_below=0.8)


def test_rl_filter_by_each_rule():
    def why(name, attempts, config):
        return difficulty.rl_filter(name, difficulty.from_attempts(attempts), config)

    keep, drop = RlFilterConfig(keep=1), RlFilterConfig(keep=0)
    assert why("p", tries(8), keep) == "always solved"
    assert [why("p", tries(k), drop) for k in range(1, 8)] == [""] * 7
    agree = tries(0, answers=["7"] * 4 + ["1", "2", "3", "4"])
    assert why("p", agree, keep) == "consistently wrong"
    assert why("p", tries(0, answers=["7"] * 3 + list("12345")), keep) == ""
    assert why("p", tries(0), drop) == "never solved"
    cut = [Attempt(None, False, True)] * 8
    assert why("p", cut, drop) == "always truncated" and why("p", cut, keep) == ""
    kept = sum(why(str(i), tries(0), RlFilterConfig(keep=0.2)) == "" for i in range(3000))
    assert 520 < kept < 680
    with pytest.raises(DataError, match="no pass rate"):
        difficulty.rl_filter("p", difficulty.Entry(0.5), keep)


def mixture(seed: int = 0) -> Mixture:
    endless = Source("procedural", lambda k: procedural.sample(k, seed=5), None, 2.0)
    return Mixture(
        [
            source("small", [make(f"s{i}") for i in range(7)], 1.0),
            source("large", [make(f"l{i}") for i in range(5000)], 5.0),
            endless,
        ],
        seed,
    )


def test_mixture_keeps_its_shares_and_sees_all_before_any_again():
    drawn = [next(m) for m in [mixture()] for _ in range(9000)]
    counts = Counter(d.source for d in drawn)
    assert abs(counts["small"] / 9000 - 1 / 8) < 0.012 and abs(counts["large"] / 9000 - 5 / 8) < 0.018
    small = [d for d in drawn if d.source == "small"]
    assert sorted(d.problem.id for d in small[:7]) == [f"s{i}" for i in range(7)]
    assert [d.epoch for d in small[:21]] == [0] * 7 + [1] * 7 + [2] * 7
    assert [d.problem.id for d in small[:7]] != [d.problem.id for d in small[7:14]]
    assert len({d.problem.id for d in drawn if d.source == "large" and d.epoch == 0}) == 5000
    endless = [d.problem.id for d in drawn if d.source == "procedural"]
    assert endless == [f"train/5/{k}" for k in range(len(endless))]


@pytest.mark.parametrize("stop", [0, 1, 4095, 4096, 4097, 8500])
def test_mixture_resumes_to_the_draw(stop):
    whole = mixture()
    expected = [(d.number, d.source, d.epoch, d.problem.id) for d in (next(whole) for _ in range(stop + 60))][stop:]
    first = mixture()
    for _ in range(stop):
        next(first)
    second = mixture()
    second.load_state_dict(first.state_dict())
    assert [(d.number, d.source, d.epoch, d.problem.id) for d in (next(second) for _ in range(60))] == expected
    assert mixture().at(stop + 5).problem.id == expected[5][3]


def test_another_mixture_is_refused_and_another_seed_differs():
    with pytest.raises(DataError, match="seed differ"):
        mixture(1).load_state_dict(mixture(0).state_dict())
    a, b = ([m.at(i).problem.id for i in range(200)] for m in (mixture(0), mixture(1)))
    assert sum(x == y for x, y in zip(a, b, strict=True)) < 40
    with pytest.raises(ConfigError, match="no source"):
        Mixture([])
    with pytest.raises(ConfigError, match="'e' has no problems"):
        Mixture([source("e", [])])


def test_strata_draw_by_domain_and_band_weight():
    problems = [make(f"m{i}", "math", 0.0 if i < 80 else 1.0) for i in range(100)]
    problems += [make(f"c{i}", "code", 0.5) for i in range(10)]
    strata = {
        s.name: s for s in stratify(problems, domains={"math": 3, "code": 1}, bands=BandConfig(hard=1.5, easy=0.5))
    }
    # math: easy mass 80 * 0.5 = 40, hard mass 20 * 1.5 = 30
    assert strata["math/easy"].weight == pytest.approx(3 * 4 / 7) and strata["math/hard"].weight == pytest.approx(
        3 * 3 / 7
    )
    assert strata["code/medium"].weight == pytest.approx(1) and strata["math/hard"].length == 20
    assert strata["math/hard"].at(0).id == "m80"
    table = {f"m{i}": Entry(0.5) for i in range(80)}
    assert {s.name for s in stratify(problems, table=table)} == {"math/medium", "math/hard", "code/medium"}
    dropped = stratify(problems, bands=BandConfig(easy=0))
    assert {s.name for s in dropped} == {"math/hard", "code/medium"}
    with pytest.raises(ConfigError, match="'chat' has no problems"):
        stratify(problems, domains={"chat": 1})


def test_token_mass_by_hand():
    problems = [
        make("a", "math", 0.0, "w " * 10),
        make("b", "math", 1.0, "w " * 10),
        make("c", "code", None, "w " * 20),
    ]
    found = describe(problems, lambda t: len(t.split()), bins=4)
    assert (found["problems"], found["tokens"]) == (3, 40)
    mass = {(c["domain"], c["band"]): c["mass"] for c in found["cells"]}
    # 10 * 0.5, 10 * 1.5, 20 * 1 of 40
    assert mass == pytest.approx({("math", "easy"): 0.125, ("math", "hard"): 0.375, ("code", "medium"): 0.5})
    assert found["pass_rate"]["counts"] == [1, 0, 0, 1] and found["length"]["math"]["quantiles"]["0.5"] == 10
    assert sum(found["length"]["code"]["counts"]) == 1
