"""`h1r inspect RUN`: what a GRPO step did, from its journal; `--html`: a whole run as a page."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from h1r.errors import ConfigError, DataError


def inspect(
    run: str = typer.Argument(..., help="The folder of a GRPO run."),
    step: int | None = typer.Option(None, "--step", help="The step to recompute; default: the last."),
    as_json: bool = typer.Option(False, "--json", help="The whole record as JSON."),
    html: str = typer.Option("", "--html", help="Write the run as a page: curves, groups, traces token by token."),
    trainer: str = typer.Option(
        "", help="A checkpoint: the page shows where its log-probabilities and the engine's part."
    ),
    compare: tuple[str, str] = typer.Option(("", ""), help="Two checkpoint folders, for the page: --compare A B."),
    prompt: str = typer.Option("", help="What --compare asks both."),
    max_tokens: int = typer.Option(256, help="Of their answers."),
) -> None:
    """Recompute one step's groups, rewards and advantages; or write the whole run as a page (GRPO or SFT)."""
    if html:
        from h1r.cli import inspect_page

        if any(compare) and not prompt:
            raise ConfigError("--compare needs --prompt: a question for both checkpoints")
        sections = [inspect_page.compare(*compare, prompt, max_tokens)] if any(compare) else []
        print(inspect_page.write(Path(run), Path(html), sections, trainer=trainer))
        return
    if any(compare) or trainer:
        raise ConfigError(f"{'--compare' if any(compare) else '--trainer'} goes into a page: give --html FILE")
    from h1r import log

    if not (Path(run) / "journal.jsonl").is_file():
        raise DataError(
            f"{run}: no journal.jsonl; give the folder of a GRPO run (for the quickstart: runs/quickstart/grpo)"
        )
    if step is None:
        steps = [int(m["step"]) for m in log.read(Path(run) / "metrics.jsonl")]
        if not steps:
            raise DataError(f"{run}: no step has been finished yet")
        step = steps[-1]
    from h1r.rl.inspect import inspect as recompute

    told = recompute(run, step)
    if as_json:
        print(log.dumps(told))
        return
    for key, value in told.items():
        if isinstance(value, (int, float, str)):
            print(f"{key}: {value}")
        elif isinstance(value, dict):
            print(f"{key}: {json.dumps(value, default=log.jsonable)[:400]}")
    for group in told.get("groups", ()):
        print(json.dumps(group, default=log.jsonable, ensure_ascii=False)[:300])
