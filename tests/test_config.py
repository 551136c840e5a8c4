from dataclasses import dataclass, field

import pytest

from h1r import config
from h1r.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    steps: int = 10
    optim: Optim = field(default_factory=Optim)
    data: str | None = None
    parts: tuple[Optim, ...] = ()
    named: dict[str, Optim] = field(default_factory=dict)
    maybe: Optim | None = None

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("steps must be 1 or more")


def recipe(tmp_path, text, name="r.yaml"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_values_and_overrides(tmp_path):
    path = recipe(tmp_path, "steps: 5\noptim: {lr: 3e-4}\n")
    got = config.read(path, Recipe, ["optim.betas=[0.9, 0.95]", "data=x.jsonl"])
    assert got == Recipe(steps=5, optim=Optim(lr=3e-4, betas=(0.9, 0.95)), data="x.jsonl")


@pytest.mark.parametrize(
    ("text", "settings", "says"),
    [
        ("stesp: 5\n", [], "did you mean 'steps'"),
        ("optim: {lrr: 1}\n", [], "unknown key 'optim.lrr'; did you mean 'lr'"),
        ("parts: [{lr: 1}, {lrr: 1}]\n", [], "unknown key 'parts.1.lrr'; did you mean 'lr'"),
        ("named: {a: {lrr: 1}}\n", [], "unknown key 'named.a.lrr'; did you mean 'lr'"),
        ("maybe: {lrr: 1}\n", [], "unknown key 'maybe.lrr'; did you mean 'lr'"),
        ("steps: many\n", [], "steps:"),
        ("steps: 0\n", [], "1 or more"),
        ("steps: 1\n", ["optim.lr"], "key.subkey=value"),
        ("steps: 1\n", ["optim.lr=fast"], "optim.lr"),
        ("- a\n", [], "mapping"),
        ("a: [\n", [], "not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, settings, says):
    with pytest.raises(ConfigError, match=says):
        config.read(recipe(tmp_path, text), Recipe, settings)


def test_missing_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="no such file"):
        config.read("no-such-recipe", Recipe)


def test_extends_merges(tmp_path):
    recipe(tmp_path, "steps: 7\noptim: {lr: 0.1, betas: [0.5, 0.5]}\n", "base.yaml")
    got = config.read(recipe(tmp_path, "extends: base\noptim: {lr: 0.2}\n"), Recipe)
    assert got == Recipe(steps=7, optim=Optim(lr=0.2, betas=(0.5, 0.5)))


def test_off_is_a_word_and_true_is_true(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("a: off\nb: true\nc: no\nd: 2.0e-6\n")
    assert config.load(path) == {"a": "off", "b": True, "c": "no", "d": 2e-6}
    assert config.override({}, ["bf16=on", "x=False"]) == {"bf16": "on", "x": False}
