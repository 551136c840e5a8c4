"""What binds an answer: a request's format and tools as one grammar, compiled away from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from h1r.errors import ConfigError
from h1r.serve.formats import Form, NamedTool
from h1r.serve.protocol import ChatRequest, CompletionRequest
from h1r.serve.service import Refused, Service
from h1r.types import Grammar


class Rule(NamedTuple):
    """grammar: for SamplingParams. whole: everything behind the thought obeys it, not the tool calls alone."""

    grammar: Grammar | None = None
    whole: bool = False


async def rule_of(here: Service, body: ChatRequest | CompletionRequest) -> Rule:
    """The rule for an answer. Raises Refused (400) that names the field which does not compile."""
    form = body.form
    tools = body.tools if isinstance(body, ChatRequest) and body.tool_choice != "none" else []
    choice = body.tool_choice if isinstance(body, ChatRequest) and tools else "none"
    if form is None and (choice == "none" or (choice == "auto" and not any(map(_strict, tools)))):
        return Rule()
    if here.llm.tokenizer is None:
        field = form.field if form is not None else "tool_choice"
        raise Refused(400, f"{field}: needs a tokenizer, and this checkpoint has none", field.partition(".")[0])
    thinks = isinstance(body, ChatRequest) and body.thinking
    if choice == "none":
        assert form is not None
        return Rule(await asyncio.to_thread(_compile, here, form, thinks), True)
    assert isinstance(body, ChatRequest)
    return await asyncio.to_thread(_calls, here, body, form, thinks)


def _compile(here: Service, form: Form, thinks: bool) -> Grammar:
    try:
        return here.grammars.compile(form.source, form.kind, thinks)
    except ConfigError as e:
        raise Refused(400, f"{form.field}: {e}", form.field.partition(".")[0]) from None


def _calls(here: Service, body: ChatRequest, form: Form | None, thinks: bool) -> Rule:
    """The grammar of a request that offers tools."""
    from h1r.text.calls import arguments_schema, call_grammar

    assert here.llm.tokenizer is not None
    choice, tools, many = body.tool_choice, body.tools, body.parallel_tool_calls
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool["function"]["name"] == choice.function.name]
        many = False
    for i, tool in enumerate(tools):
        field = f"tools.{i}.function.parameters"
        try:
            here.grammars.compile(arguments_schema(tool))
        except ConfigError as e:
            raise Refused(400, f"{field}: {e}", "tools") from None
    if choice != "auto":
        source = call_grammar(tools, here.llm.tokenizer, many=many)
    elif form is None:
        source = call_grammar(tools, here.llm.tokenizer, many=many, required=False)
    else:
        _compile(here, form, thinks)
        source = call_grammar(tools, here.llm.tokenizer, many=many, required=False, answer=_schema(form))
    return Rule(_compile(here, Form("tools", source, "lark"), thinks), choice != "auto" or form is not None)


def _schema(form: Form) -> Mapping[str, Any]:
    if form.kind != "json":
        raise Refused(
            400, f"{form.field}: beside tools only JSON works; set tool_choice to none", form.field.partition(".")[0]
        )
    found: Mapping[str, Any] = form.source
    return found


def _strict(tool: Mapping[str, Any]) -> bool:
    return tool["function"].get("strict") is True
