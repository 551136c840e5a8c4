"""Serve: an OpenAI-compatible server over one LLM, with DeepConf as a request, and a page that shows it think.

    made = app(LLM("runs/quickstart/model"), "quickstart", answer_of=answer_of, same=same)
    listen(made, "127.0.0.1", 8000)

protocol  what may be asked, strictly        flight   from the engine's thread to a handler
chat, completions, deepthink                 stream   server-sent events
info      models, health, tokens, page       gate     keys, limits, the log; turns, record: what it keeps
"""

from h1r.serve.app import app, bind, listen
from h1r.serve.gate import Gate, check_binding, read_keys
from h1r.serve.record import Record
from h1r.serve.turns import Limits, Turns

__all__ = ["Gate", "Limits", "Record", "Turns", "app", "bind", "check_binding", "listen", "read_keys"]
