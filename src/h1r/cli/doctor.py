"""`h1r doctor MODEL`: does this checkpoint do what its config says, here; `--sandbox`: what isolation this machine gives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from h1r.errors import ConfigError

if TYPE_CHECKING:
    from h1r.doctor import Check

MARKS = {True: "ok     ", False: "FAILED ", None: "skipped"}


def doctor(
    model: str | None = typer.Argument(None, help="A checkpoint folder."),
    sandbox: bool = typer.Option(
        False, "--sandbox", help="Run the attack set against every sandbox this machine offers."
    ),
    recipe: str | None = typer.Option(None, "--recipe", help="Preflight of an SFT recipe instead of a checkpoint."),
    backend: list[str] = typer.Option(
        [], "--backend", help="With --sandbox: also docker:IMAGE, podman:IMAGE or runsc."
    ),
    coord: bool = typer.Option(
        False, "--coord", help="The coordinate check: does one learning rate serve every width?"
    ),
    widths: str = typer.Option("256,512,1024", help="With --coord: multiples of 32."),
    steps: int = typer.Option(3, help="With --coord: Adam steps."),
    lr: float = typer.Option(4e-4, help="With --coord."),
    plain: bool = typer.Option(False, "--plain", help="With --coord: every multiplier 1."),
    html: str = typer.Option("", "--html", help="With --coord: draw it into this file."),
    as_json: bool = typer.Option(False, "--json"),
) -> None:
    """Self-test of a checkpoint: multipliers, parity, stop ids, template, engine against trainer, sandbox level. Exit code 1
    when something failed."""
    if sandbox:
        _attacks(as_json, backend)
        return
    if coord:
        _coordinates(widths, steps, lr, plain, html)
        return
    if recipe is None and model is None:
        raise ConfigError("doctor needs a checkpoint folder, or --sandbox, --coord, or --recipe NAME")
    from h1r.doctor import Check, examine
    from h1r.verify import sandbox as room

    def level() -> str:
        return room.open().level

    failed = 0
    checks = examine(model, sandbox=level) if model is not None else _of_recipe(str(recipe))
    for check in checks:
        assert isinstance(check, Check)
        failed += check.ok is False
        if as_json:
            print(json.dumps(check._asdict()), flush=True)
            continue
        print(f"{MARKS[check.ok]} {check.name}: {check.detail}", flush=True)
        if check.ok is False and check.cure:
            print(f"        cure: {check.cure}", flush=True)
    if not as_json:
        print(f"{failed} failed" if failed else "all well")
    if failed:
        raise typer.Exit(1)


def _coordinates(widths: str, steps: int, lr: float, plain: bool, html: str) -> None:
    from h1r.cli.doctor_coord import run
    from h1r.doctor.coord import CoordConfig

    try:
        sizes = tuple(int(w) for w in widths.split(","))
    except ValueError:
        raise ConfigError(f"--widths {widths}: numbers with commas between, such as 64,128,256") from None
    if not run(CoordConfig(widths=sizes, steps=steps, lr=lr, plain=plain), html):
        raise typer.Exit(1)


def _of_recipe(name: str) -> list[Check]:
    from h1r import config
    from h1r.cli.preflight import sft_checks
    from h1r.cli.sft import SftRecipe

    return sft_checks(config.read(name, SftRecipe), name)


def _attacks(as_json: bool, named: list[str]) -> None:
    """The matrix of threats and backends. Exit code 1 when no backend that code would run in by default holds."""
    from h1r.evals import plain
    from h1r.verify.sandbox import LEVELS, ORDER, attacks

    backends = list(dict.fromkeys([*attacks.offered(), *named]))
    matrix, facts = attacks.matrix(backends), attacks.machine()
    held = [b for b in backends if all(row[b] == "blocked" for row in matrix.values())]
    if as_json:
        print(json.dumps({"machine": facts, "matrix": matrix, "holds": held}))
    else:
        for name, value in facts.items():
            print(f"{name}: {value}")
        lost = {b: next(iter(matrix.values()))[b] for b in backends}
        lost = {b: why for b, why in lost.items() if why.startswith("unavailable")}
        shown = [b for b in backends if b not in lost]
        levels = ["level", *[LEVELS[b.partition(":")[0]] for b in shown]]
        print(plain([["threat", *shown], levels, *[[t, *[row[b] for b in shown]] for t, row in matrix.items()]]))
        for backend, why in lost.items():
            print(f"{backend}: {why}")
        first = next((b for b in ORDER if b in held), "")
        print(
            f"code runs in: {first}" if first else "no sandbox holds here: install bubblewrap or allow user namespaces"
        )
    if not any(b in held for b in ORDER):
        raise typer.Exit(1)
