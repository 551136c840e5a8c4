"""`h1r think MODEL QUESTION`: many chains of thought, confidence, early stops, a vote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import typer

from h1r.errors import DataError


def think(
    model: str = typer.Argument(..., help="A checkpoint folder or Hub id, or the URL of an OpenAI-compatible server."),
    question: str = typer.Argument(..., help="What to think about."),
    traces: int = typer.Option(64, help="Chains of thought in all, warm-up included."),
    keep: float | None = typer.Option(None, help="Share of traces confident enough to vote (0.1: DeepConf-low)."),
    window: int | None = typer.Option(None, help="Tokens of the confidence window."),
    warmup: int | None = typer.Option(None, help="Traces that run to their end and set the bar."),
    consensus: float | None = typer.Option(None, help="Stop everything when the winner holds this share."),
    temperature: float | None = typer.Option(None),
    max_tokens: int | None = typer.Option(None),
    seed: int = typer.Option(0),
    name: str = typer.Option("", "--name", help="The server's name for its model (with a URL)."),
) -> None:
    """Answer one question by DeepConf (arXiv:2508.15260): votes, confidence, tokens spent and saved, majority beside it."""
    from h1r.cli import wire
    from h1r.search import online
    from h1r.types import Prompt, SamplingParams

    given = {"budget": traces, "keep_fraction": keep, "window": window, "warmup": warmup, "consensus": consensus}
    settings = wire.deepconf_of(model, **given)  # a wrong one is told before a model is loaded
    generate: Any
    local = not model.startswith(("http://", "https://"))
    if local:
        llm = wire.load_llm(model)
        sampling = replace(llm.recommended(), seed=seed)
        prompt = llm.prompt(Prompt(messages=({"role": "user", "content": question},)))
        generate = llm.generate
        settings = wire.deepconf_of(llm.path, **given)
    else:
        from h1r.endpoint import Endpoint

        generate = Endpoint(model, name).generate
        sampling = SamplingParams(temperature=0.6, top_p=0.95, max_tokens=32768, seed=seed)
        prompt = Prompt(messages=({"role": "user", "content": question},))
    changes: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    sampling = replace(sampling, **{k: v for k, v in changes.items() if v is not None})
    result = online(generate, prompt, sampling, settings, wire.answer_of, wire.same)
    if result.majority.value is None:
        raise DataError(
            f"none of {len(result.traces)} traces gave an answer; raise --max-tokens ({sampling.max_tokens})"
        )
    _show(result, settings.keep_fraction, settings.window)


def _show(result, keep: float, window: int) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    best = max(
        (t for t, a in zip(result.traces, result.answers, strict=True) if a is not None and t.reasoning),
        key=lambda t: result.stats[t.index].lowest if t.index < len(result.stats) else 0.0,
        default=None,
    )
    if best is not None:
        console.print(best.reasoning.strip(), style="dim", markup=False, highlight=False)
    table = Table("answer", "votes", "weight", "share", title=f"keep {keep:.0%}, window {window}")
    total = sum(v.weight for v in result.answer.votes) or 1.0
    for vote in result.answer.votes[:8]:
        table.add_row(escape(vote.value), str(vote.traces), f"{vote.weight:.2f}", f"{vote.weight / total:.1%}")
    console.print(table)
    answer, majority = escape(str(result.answer.value)), escape(str(result.majority.value))
    console.print(f"[bold]answer {answer}[/bold]  (majority of finished traces: {majority})", highlight=False)
    whole = result.tokens + result.saved
    console.print(
        f"{len(result.traces)} traces, {result.stopped} stopped early, {len(result.voters)} voted; bar {result.bar:.3f}; "
        f"{result.tokens:,} tokens spent, about {result.saved:,.0f} saved ({result.saved / max(whole, 1):.0%})"
    )
