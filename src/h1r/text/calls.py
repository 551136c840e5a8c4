"""Tool calls as a grammar, in the template's Hermes form: the arguments of each call obey the tool's JSON schema.

    <tool_call>
    {"name": "add", "arguments": {"a": 1}}
    </tool_call>

The blank after "arguments": is optional, as it is in the template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from h1r.errors import ConfigError
from h1r.text.grammar import plain_json
from h1r.text.split import CALL, CALLED
from h1r.text.tokenizer import Tokenizer


def arguments_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments: always an object; a tool without parameters takes none."""
    given = (tool.get("function") or tool).get("parameters")
    if given is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(given, Mapping):
        raise ConfigError(f"parameters must be a JSON schema, not {type(given).__name__}")
    if given.get("type", "object") != "object":
        raise ConfigError(f"parameters of type {given['type']!r}: arguments are an object")
    return {"type": "object", **given}


def call_grammar(
    tools: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    many: bool = True,
    required: bool = True,
    answer: Mapping[str, Any] | None = None,
) -> str:
    """Lark source. many: several calls may follow each other.

    required  calls and nothing else. Without it text comes first and the calls are optional; with `answer`, a JSON schema,
              the alternative to calls is an answer that obeys it.
    """
    begin, end = _mark(CALL, tokenizer), _mark(CALLED, tokenizer)
    rest = ' ("\\n" call)*' if many else ""
    calls = f'call{rest} "\\n"?'
    if required:
        start = calls
    elif answer is not None:
        start = f"answer | {calls}"
    else:
        start = f"TEXT ({calls})?"
    lines = [f"start: {start}", f"call: {begin} call_body {end}"]
    if not required:
        lines.append(r"TEXT: /(.|\n)*/" if answer is None else f"answer: %json {_schema(answer)}")
    lines.append("call_body: " + " | ".join(f"call_{i}" for i in range(len(tools))))
    for i, tool in enumerate(tools):
        name = (tool.get("function") or tool)["name"]
        head = json.dumps(f'\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments":')
        lines.append(f'call_{i}: {head} " "? args_{i} "}}\\n"')
        lines.append(f"args_{i}: %json {_schema(arguments_schema(tool))}")
    return "\n".join(lines)


def _mark(tag: str, tokenizer: Tokenizer) -> str:
    """A tag as the token it is, where it is one: the grammar sees no text in such tokens."""
    return tag if tokenizer.has(tag) else json.dumps(tag)


def _schema(schema: Mapping[str, Any]) -> str:
    return json.dumps(plain_json(schema))
