"""Recipes: YAML in, frozen dataclasses out. An unknown key is an error that names the nearest known one.

    recipe = config.read("quickstart-sft", SftRecipe, overrides=["train.steps=20"])

A name without a folder is looked up among the packaged recipes. `--set a.b=value` parses the value as YAML.
A recipe may begin with `extends: other-name`; its own keys win, nested mappings merge.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from h1r.errors import ConfigError

T = TypeVar("T")


def recipes_folder() -> Path:
    """Where the packaged recipes lie: inside the wheel, or at the root of a checkout."""
    here = Path(__file__).parent
    return here / "recipes" if (here / "recipes").is_dir() else here.parents[1] / "recipes"


def find(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of a packaged one. Raises ConfigError that lists what there is."""
    path = Path(name)
    if path.is_file():
        return path
    packaged = recipes_folder() / (str(name) if str(name).endswith((".yaml", ".yml")) else f"{name}.yaml")
    if packaged.is_file():
        return packaged
    by_name = recipes_folder() / path.name
    if path.parts[:1] == ("recipes",) and by_name.is_file():
        return by_name
    known = sorted(p.stem for p in recipes_folder().glob("*.yaml"))
    near = difflib.get_close_matches(path.stem, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"packaged recipes: {', '.join(known) or 'none'}"
    raise ConfigError(f"recipe {str(name)!r} not found: no such file; {hint}")


def load(name: str | Path) -> dict[str, Any]:
    """The mapping a recipe file holds, `extends` resolved."""
    import yaml

    path = find(name)
    try:
        loaded = _parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(e).split())})") from None
    if loaded is None:
        loaded = {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: a mapping of keys was expected, found {type(loaded).__name__}")
    base = loaded.pop("extends", None)
    if base is None:
        return loaded
    beside = path.parent / f"{base}.yaml"
    return merge(load(beside if beside.is_file() else base), loaded)


def _parse(text: str) -> Any:
    """YAML, in which only true and false are truth values: `bf16: off` is the word off, as in YAML 1.2."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(tag, form) for tag, form in known if tag != "tag:yaml.org,2002:bool"]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
    )
    return yaml.load(text, Loader)


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`, nested mappings merged key by key."""
    out = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else value
    return out


def override(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=value` settings; the value is YAML."""
    import yaml

    out = dict(values)
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set {setting!r}: write it as key.subkey=value")
        try:
            value: Any = _parse(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {setting!r}: the value is not YAML") from None
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        out = merge(out, value)
    return out


def read(name: str | Path, cls: type[T], overrides: Sequence[str] = ()) -> T:
    """A recipe as `cls`, a frozen dataclass. Raises ConfigError: unknown key, wrong type, value out of range."""
    return build(override(load(name), overrides), cls, str(name))


def build(values: Mapping[str, Any], cls: type[T], where: str = "recipe") -> T:
    """`values` as the dataclass `cls`, nested dataclasses included."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    _refuse_unknown(values, cls, where, ())
    try:
        return TypeAdapter(
            cls, config=None if dataclasses.is_dataclass(cls) else ConfigDict(extra="forbid")
        ).validate_python(dict(values))
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(p) for p in first["loc"]) or "(top)"
        raise ConfigError(f"{where}: {key}: {first['msg']} (got {first.get('input')!r})") from None


def _refuse_unknown(values: Mapping[str, Any], cls: Any, where: str, prefix: tuple[str, ...]) -> None:
    if not dataclasses.is_dataclass(cls):
        return
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), sorted(known), 1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
            raise ConfigError(f"{where}: unknown key {'.'.join((*prefix, str(key)))!r}; {hint}")
        _refuse_within(value, hints[key], where, (*prefix, str(key)))


def _refuse_within(value: Any, hint: Any, where: str, prefix: tuple[str, ...]) -> None:
    """Follow a field's type to the dataclasses in it: itself, a union's only one, a sequence's or a mapping's members."""
    inner = [h for h in typing.get_args(hint) if h not in (type(None), Ellipsis)]
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            _refuse_unknown(value, hint, where, prefix)
    elif isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        held = [h for h in inner if dataclasses.is_dataclass(h)]
        if len(held) == 1:
            _refuse_within(value, held[0], where, prefix)
    elif isinstance(value, Mapping) and len(inner) == 2:
        for key, member in value.items():
            _refuse_within(member, inner[1], where, (*prefix, str(key)))
    elif isinstance(value, (list, tuple)) and len(inner) == 1:
        for place, member in enumerate(value):
            _refuse_within(member, inner[0], where, (*prefix, str(place)))
