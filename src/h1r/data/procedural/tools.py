"""Tool calling: emit the right call for a small schema, or answer from a call's result."""

from __future__ import annotations

from random import Random
from typing import Any

from h1r.data.procedural.chat import NAMES
from h1r.data.procedural.draft import Draft, Make, boxed

CITIES = ("Rome", "Oslo", "Lima", "Cairo", "Paris", "Delhi", "Tokyo", "Quito", "Dubai", "Seoul")
DAYS = ("today", "tomorrow", "Monday", "Friday", "Sunday")
FRUIT = ("apples", "pears", "plums", "figs", "limes", "kiwis")


def schema(name: str, **types: str) -> dict[str, Any]:
    """A function's JSON schema, OpenAI shape, without descriptions."""
    properties = {key: {"type": kind} for key, kind in types.items()}
    parameters = {"type": "object", "properties": properties, "required": list(types)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = {
    "weather": schema("weather", city="string"),
    "forecast": schema("forecast", city="string", day="string"),
    "add": schema("add", a="integer", b="integer"),
    "buy": schema("buy", item="string", count="integer"),
    "mail": schema("mail", to="string", text="string"),
}


def _request(r: Random, name: str, level: int) -> tuple[str, dict[str, Any]]:
    """A sentence that asks for tool `name`, and the arguments it asks for."""
    city, day = r.choice(CITIES), r.choice(DAYS)
    if name == "weather":
        return r.choice(("Weather in {}?", "What is the weather in {}?")).format(city), {"city": city}
    if name == "forecast":
        ask = r.choice(("Weather in {} {}?", "What is the weather in {} {}?")).format(city, day)
        return ask, {"city": city, "day": day}
    if name == "add":
        top = 99 if level < 3 else 9999
        a, b = r.randint(10, top), r.randint(10, top)
        return r.choice(("Add {} and {}.", "Use add for {} and {}.")).format(a, b), {"a": a, "b": b}
    if name == "buy":
        item, count = r.choice(FRUIT), r.randint(2, 99)
        return r.choice(("Buy {} {}.", "Please order {} {}.")).format(count, item), {"item": item, "count": count}
    to, text = r.choice(NAMES), f"See you in {city} {day}"
    return f"Mail {to}: {text}", {"to": to, "text": text}


def _called(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def call(r: Random, level: int) -> Draft:
    """Emit one call: one or two arguments, one or two tools to choose from."""
    names = (("weather", "add"), ("forecast", "buy", "add"), ("weather", "forecast", "buy"), tuple(TOOLS))[level]
    name = r.choice(names)
    offered = [name] if level < 2 else r.sample([name, r.choice([t for t in TOOLS if t != name])], 2)
    ask, arguments = _request(r, name, level)
    if name == "weather" and level == 0:
        # a city alone would give ten instances in all
        name, (ask, arguments) = "forecast", _request(r, "forecast", level)
        offered = [name]
    think = "\n".join([f"call {name}", *(f"{key}: {value}" for key, value in arguments.items())])
    return Draft(
        key=f"call {name} {arguments}",
        ask=ask,
        think=think,
        answer="",
        gold={"name": name, "arguments": arguments},
        kind="tool",
        tools=tuple(TOOLS[t] for t in offered),
        calls=(_called(name, arguments),),
    )


def result(r: Random, level: int) -> Draft:
    """Answer from results: repeat one (0), hold it against a bar (1), the warmer of two (2), their difference (3)."""
    one, two = r.sample(CITIES, 2)
    day = r.choice(DAYS)
    a, b = r.sample(range(10, 40), 2)
    cities = [one] if level < 2 else [one, two]
    after: list[dict[str, Any]] = []
    for city, degrees in zip(cities, (a, b), strict=False):
        arguments = {"city": city, "day": day}
        think = f"call forecast\ncity: {city}\nday: {day}"
        after.append(
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": think,
                "tool_calls": [_called("forecast", arguments)],
            }
        )
        after.append({"role": "tool", "content": str(degrees)})
    high, low = max(a, b), min(a, b)
    ask, lines, value, kind = (
        (f"How many degrees in {one} {day}?", [f"{one}: {a}"], str(a), "math"),
        (f"Is it above {b} in {one} {day}?", [f"{one}: {a}", f"{high}>{low}"], "Yes" if a > b else "No", "text"),
        (
            f"Is {one} or {two} warmer {day}?",
            [f"{one}: {a}", f"{two}: {b}", f"{high}>{low}"],
            one if a > b else two,
            "text",
        ),
        (
            f"How much do {one} and {two} differ {day}?",
            [f"{one}: {a}", f"{two}: {b}", f"{high}-{low}={high - low}"],
            str(high - low),
            "math",
        ),
    )[level]
    return Draft(
        key=f"result {ask}",
        ask=ask,
        think="\n".join(lines),
        answer=boxed(value) if kind == "math" else value,
        gold=value,
        kind=kind,
        tools=(TOOLS["forecast"],),
        after=tuple(after),
        meta={"world": {"forecast": [[{"city": c, "day": day}, str(d)] for c, d in zip(cities, (a, b), strict=False)]}},
    )


FAMILIES: dict[str, Make] = {"call": call, "result": result}
