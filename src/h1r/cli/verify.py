"""`h1r verify GOLD ANSWER`: is this answer right, and why."""

from __future__ import annotations

import json

import typer

from h1r.cli import wire
from h1r.errors import ConfigError


def verify(
    gold: str = typer.Argument("", help="The reference answer (LaTeX or plain)."),
    answer: str = typer.Argument("", help="A model's answer, or its whole reply."),
    explain: bool = typer.Option(False, "--explain", help="Show the span extracted, normal forms, tier and why."),
    shadow: bool = typer.Option(False, "--shadow", help="Compare with math-verify."),
    cases: str | None = typer.Option(None, help="A JSONL file of cases instead."),
    kind: str = typer.Option("math", help="Kind of --cases: math or code."),
    grader: str = typer.Option("fixed", help="Of code: fixed, or official (LiveCodeBench's)."),
    out: str | None = typer.Option(None, help="Where --cases writes its verdicts (JSONL, resumable)."),
    sandbox: str = wire.SANDBOX,
    unsafe: bool = wire.UNSAFE,
) -> None:
    """Judge an answer, or a file of them. Exit code 0: correct or done, 1: incorrect, 3: unscored."""
    from h1r import verify as room
    from h1r.verify.cases import run_cases

    if cases is not None:
        if out is None:
            raise ConfigError("--cases needs --out VERDICTS.jsonl")
        print(json.dumps(run_cases(cases, kind, out, sandbox=wire.sandbox(sandbox, unsafe), grader=grader)))
        return
    if not gold or not answer:
        raise ConfigError("verify needs a gold and an answer, or --cases FILE --kind math|code --out VERDICTS.jsonl")
    told = room.explain(gold, answer, shadow=shadow)
    if explain or shadow:
        width = max(len(k) for k in told)
        for key, value in told.items():
            print(f"{key:<{width}}  {value}")
    else:
        print(f"{told['verdict']}: {told['why']}")
    raise typer.Exit({"correct": 0, "incorrect": 1}.get(str(told["verdict"]), 3))
