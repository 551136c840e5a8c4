"""The command line: one file per command; parses, wires rooms together, shows progress. `h1r --help` imports no torch."""

from __future__ import annotations

import errno
import sys

from h1r.errors import H1RError

INTERRUPTED = 130  # what typer exits with after Ctrl-C
RESUMED = {"quickstart", "sft", "grpo", "eval", "data", "verify"}
GOES_ON = "goes on from the last checkpoint or finished stage"
REFUSED = {  # what the system says to a path or a port that a user gave, and the cure
    errno.ENOENT: "give one that is there",
    errno.ENOTDIR: "a file lies where a folder is needed; give another path",
    errno.EISDIR: "a folder lies where a file is needed; give another path",
    errno.EEXIST: "give another path, or move what is there",
    errno.EACCES: "give a path that you may use",
    errno.EPERM: "give a path that you may use",
    errno.EROFS: "give a path that can be written",
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.EADDRINUSE: "choose another --port",
}


def main() -> None:
    """Entry point of `h1r`. A user's mistake is one line on stderr and exit code 2; --debug shows the traceback."""
    from h1r.cli.app import app

    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(arguments, prog_name="h1r")
    except H1RError as e:
        if debug:
            raise
        print(f"h1r: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as e:
        if e.code == INTERRUPTED:
            kept = RESUMED.intersection(arguments[:1])
            print(f"h1r: interrupted{f'; the same command {GOES_ON}' if kept else ''}", file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.exit(141)
    except OSError as e:
        if debug or e.errno not in REFUSED:
            raise
        name = f"{e.filename}: " if e.filename else ""
        print(f"h1r: {name}{e.strerror}; {REFUSED[e.errno]} (--debug shows where)", file=sys.stderr)
        sys.exit(2)
