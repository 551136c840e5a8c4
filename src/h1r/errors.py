"""Every exception the project raises on purpose.

    H1RError                     caught by the command line: one line, exit code 2
    ├── ConfigError              a recipe, option or config.json says something we cannot honour
    │   └── ContextError         a prompt that does not fit the model's context, here or on a server
    ├── DataError                a file holds something we cannot read: names file, line and field
    ├── CheckpointError          weights that do not fit: names, shapes, a torn file
    ├── SandboxError             our sandbox failed (never the program inside it)
    ├── EndpointError            a remote server did not answer as agreed
    ├── DivergenceError          gradients are not finite, step after step: training stops
    ├── MismatchError            engine and trainer disagree about the same tokens: training stops
    └── WorkerLost               a remote worker died; its work may be redone

An exception's text is one sentence that says what is wrong, where, and what to do. A wrong answer of a model is
never an exception: it is a `Score`. A bug of ours is an AssertionError.
"""

from __future__ import annotations


class H1RError(Exception):
    """Root of the tree; its text is shown to users as it is."""


class ConfigError(H1RError):
    """A recipe, option or model config that cannot be honoured."""


class DataError(H1RError):
    """A data file that cannot be read; the text names file, line and field."""


class CheckpointError(H1RError):
    """A checkpoint that is missing, torn, or does not fit the model."""


class SandboxError(H1RError):
    """Our sandbox would not start or broke: the trace it judged is unscored."""


class ContextError(ConfigError):
    """A prompt that does not fit the model's context or the memory for it."""


class EndpointError(H1RError):
    """A remote server refused, timed out, or answered outside its protocol."""


class MismatchError(H1RError):
    """The engine and the trainer give the same tokens different log-probabilities."""


class DivergenceError(H1RError):
    """Training that no longer learns: gradients that are not finite, step after step."""


class WorkerLost(H1RError):
    """A remote worker died while it held work; the caller redoes or discards that work."""
