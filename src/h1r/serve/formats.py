"""Bodies read strictly, and the forms an answer can be held to: JSON, a schema, a regular expression, a choice, a grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

HARMLESS = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "request_id",
        "priority",
        "spaces_between_special_tokens",
    }
)


class Strict(BaseModel):
    """Unknown fields are refused, nulls and HARMLESS ones dropped."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {k: v for k, v in data.items() if v is not None and k not in HARMLESS}


class Form(NamedTuple):
    """What an answer is held to. field: where the request said so; source, kind: as `text.grammar.Grammars.compile`."""

    field: str
    source: Any
    kind: Literal["json", "regex", "choice", "gbnf", "lark"]


class NamedSchema(Strict):
    """`response_format.json_schema`. strict changes nothing: a schema always binds."""

    name: str = ""
    description: str = ""
    strict: bool = True
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Strict):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("response_format: json_schema goes with type json_schema, and only with it")
        return self

    @property
    def form(self) -> Form | None:
        if self.type == "text":
            return None
        schema = {"type": "object"} if self.json_schema is None else self.json_schema.schema_
        return Form("response_format", schema, "json")


class StructuredOutputs(Strict):
    """`structured_outputs`, as vLLM spells it: one of json, json_object, regex, choice, grammar (GBNF or Lark)."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    json_object: bool = False
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        given = [self.json_, self.json_object or None, self.regex, self.choice, self.grammar]
        if sum(g is not None for g in given) != 1:
            raise ValueError("structured_outputs: give exactly one of json, json_object, regex, choice, grammar")
        if (self.whitespace_pattern or self.disable_any_whitespace) and self.json_ is None and not self.json_object:
            raise ValueError("structured_outputs: whitespace_pattern and disable_any_whitespace go with json alone")
        if isinstance(self.json_, str):
            try:
                self.json_ = json.loads(self.json_)
            except ValueError as e:
                raise ValueError(f"structured_outputs: json is no JSON ({e})") from None
        return self

    @property
    def form(self) -> Form:
        if self.regex is not None:
            return Form("structured_outputs.regex", self.regex, "regex")
        if self.choice is not None:
            return Form("structured_outputs.choice", self.choice, "choice")
        if self.grammar is not None:
            return Form("structured_outputs.grammar", self.grammar, "gbnf")
        return Form("structured_outputs.json", self._schema(), "json")

    def _schema(self) -> Any:
        schema = {"type": "object"} if self.json_ is None else self.json_
        blanks: dict[str, Any] = {"whitespace_pattern": self.whitespace_pattern} if self.whitespace_pattern else {}
        if self.disable_any_whitespace:
            blanks = {"whitespace_flexible": False}
        if not blanks:
            return schema
        return {**schema, "x-guidance": blanks} if isinstance(schema, dict) else schema


class FunctionName(Strict):
    name: str


class NamedTool(Strict):
    """`tool_choice` that names the function to call."""

    type: Literal["function"] = "function"
    function: FunctionName
