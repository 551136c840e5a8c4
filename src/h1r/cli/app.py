"""All commands. Importing them costs no torch: each imports its rooms when it runs."""

from __future__ import annotations

import typer

import h1r
from h1r import log
from h1r.cli import bench, chat, data, doctor, eval_, grpo, inspect_, quickstart, sandbox, serve, sft, think, verify

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, serve, search with and evaluate hybrid (attention + Mamba-2) reasoning models.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"h1r {h1r.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log every detail to stderr."),
    debug: bool = typer.Option(False, "--debug", help="Show a traceback where an error would be one line."),
) -> None:
    """Options of every command; --debug may stand anywhere."""
    log.handlers(verbose)


app.command("quickstart")(quickstart.quickstart)
app.command("sft")(sft.sft)
app.command("grpo")(grpo.grpo)
app.command("eval")(eval_.eval_)
app.command("verify")(verify.verify)
app.command("think")(think.think)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.add_typer(data.app, name="data")
app.command("doctor")(doctor.doctor)
app.command("inspect")(inspect_.inspect)
app.command("sandbox")(sandbox.sandbox)
app.add_typer(bench.app, name="bench")
