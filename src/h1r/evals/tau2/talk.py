"""Agent, customer and world take turns until somebody ends it; then the reward.

    talk(task, databases, policy, agent, customer) -> Talk      agent, customer: (messages, tools) -> Trace
    reward(task, databases, messages, ended) -> Reward          from a transcript alone, so that it can be made again

The published order: the agent greets, the customer speaks or uses the phone, the agent speaks or calls a tool; a message is one
step, the world's answer to calls another. Ten failed calls or `steps` steps end it without reward.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from h1r.evals.tau2 import tools
from h1r.evals.tau2.world import Databases, World
from h1r.types import Message, Trace

Respond = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], Trace]
GREETING = "Hi! How can I help you today?"
MAX_STEPS, MAX_ERRORS = 100, 10
STOPS = ("###STOP###", "###TRANSFER###", "###OUT-OF-SCOPE###")
INSTRUCTIONS = """You are a customer service agent that helps the user according to the <policy> provided below.
In each turn you can either:
- Send a message to the user.
- Make a tool call.
You cannot do both at the same time.

Try to be helpful and always follow the policy. Always make sure you generate valid JSON only."""
SYSTEM = "<instructions>\n{instructions}\n</instructions>\n<policy>\n{policy}\n</policy>"
POLICY = "<main_policy>\n{main}\n</main_policy>\n<tech_support_policy>\n{support}\n</tech_support_policy>"  # fmt: skip
GUIDELINES = """# User Simulation Guidelines

You are playing the role of a customer contacting a customer service representative agent. 
Your goal is to simulate realistic customer interactions while following specific scenario instructions.
You have some tools to perform the actions on your end that might be requested by the agent to diagnose and resolve your issue.

## Core Principles
- Generate one message at a time, maintaining natural conversation flow.
- At each turn you can either:
    - Send a message to the agent.
    - Make a tool call to perform an action requested by the agent.
    - You cannot do both at the same time.
- Strictly follow the scenario instructions you have received.
- Never make up or hallucinate information not provided in the scenario instructions. Information that is not provided in the scenario instructions should be considered unknown or unavailable.
- Never make up the results of tool calls that the agent has requested, you must ground your responses based on the results of tool calls if the agent has requested.
- If you made an error in a tool call and get an error message, fix the error and try again.
- All the information you provide to the agent must be grounded in the information provided in the scenario instructions or the results of tool calls.
- Avoid repeating the exact instructions verbatim. Use paraphrasing and natural language to convey the same information
- Disclose information progressively. Wait for the agent to ask for specific information before providing it.
- Only call a tool if the agent has requested it or if it is necessary to answer a question the agent has asked. Ask clarifying questions if you do not know what action to take.
- If the agent asks multiple actions to perform, state that you cannot perform multiple actions at once, and ask the agent to instruct you one action at a time.
- Your messages when performing tool calls will not be displayed to the agent, only the messages without tool calls will be displayed to the agent.

## Task Completion
- The goal is to continue the conversation until the task is complete.
- If the instruction goal is satisified, generate the '###STOP###' token to end the conversation.
- If you have been transferred to another agent, generate the '###TRANSFER###' token to indicate the transfer. Only do this after the agent has clearly indicated that you are being transferred.
- If you find yourself in a situation in which the scenario does not provide enough information for you to continue the conversation, generate the '###OUT-OF-SCOPE###' token to end the conversation.
Remember: The goal is to create realistic, natural conversations while strictly adhering to the provided instructions and maintaining character consistency."""  # noqa: E501  (data/tau2/user_simulator/simulation_guidelines_tools.md)
CUSTOMER_SYSTEM = "{guidelines}\n\n<scenario>\n{scenario}\n</scenario>"


class CustomerError(Exception):
    """The model that plays the customer said nothing: not the agent's doing."""


class Talk(NamedTuple):
    """messages: all of it, each with "who": assistant, user or environment. ended: stop, steps, errors, or empty (the agent
    said nothing). tokens: the agent's."""

    messages: tuple[Message, ...]
    ended: str
    steps: int
    tokens: int


class Reward(NamedTuple):
    value: float
    why: str
    parts: Mapping[str, float]


def policy(main: str, support: str) -> str:
    return POLICY.format(main=main, support=support)


def agent_system(text: str) -> str:
    return SYSTEM.format(instructions=INSTRUCTIONS, policy=text)


def scenario_text(told: Mapping[str, Any]) -> str:
    """A task's user_scenario as the customer's model reads it."""
    given, lines = told["instructions"], []
    if told.get("persona") is not None:
        lines += ["Persona:", textwrap.indent(str(told["persona"]), "\t")]
    if isinstance(given, Mapping):
        parts = [f"Domain: {given['domain']}", f"Reason for call:\n{textwrap.indent(given['reason_for_call'], chr(9))}"]
        for name, title in (("known_info", "Known info"), ("unknown_info", "Unknown info")):
            if given.get(name) is not None:
                parts.append(f"{title}:\n{textwrap.indent(given[name], chr(9))}")
        parts.append(f"Task instructions:\n{textwrap.indent(given['task_instructions'], chr(9))}")
        given = "\n".join(parts)
    return "\n".join([*lines, "Instructions:", textwrap.indent(str(given), "\t")])


def talk(
    task: Mapping[str, Any],
    databases: Databases,
    policy: str,
    agent: Respond,
    customer: Respond,
    steps: int = MAX_STEPS,
) -> Talk:
    """Play one task. Raises CustomerError, and whatever the two models' servers raise."""
    world = World(databases)
    world.begin((task.get("initial_state") or {}).get("initialization_actions") or ())
    systems = {
        "assistant": agent_system(policy),
        "user": CUSTOMER_SYSTEM.format(guidelines=GUIDELINES, scenario=scenario_text(task["user_scenario"])),
    }
    offered = {"assistant": tools.AGENT, "user": tools.CUSTOMER_TOOLS}
    said: list[dict[str, Any]] = [{"who": "assistant", "role": "assistant", "content": GREETING}]
    turn, tokens, count, errors = "user", 0, 0, 0
    while True:
        if count >= steps:
            return Talk(tuple(said), "steps", count, tokens)
        if errors >= MAX_ERRORS:
            return Talk(tuple(said), "errors", count, tokens)
        respond = agent if turn == "assistant" else customer
        trace = respond(seen(said, turn, systems[turn]), offered[turn])
        tokens += len(trace.token_ids) if turn == "assistant" else 0
        count += 1
        calls, text = [dict(c) for c in trace.tool_calls], trace.content.strip()
        if not calls and not text:
            if turn == "user":
                raise CustomerError("the customer's model sent an empty message")
            return Talk(tuple(said), "empty", count, tokens)
        message: dict[str, Any] = {"who": turn, "role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [_call(c, len(said), i) for i, c in enumerate(calls)]
        said.append(message)
        if calls:
            for call in message["tool_calls"]:
                answer, failed = world.call(turn, call["function"]["name"], _arguments(call))
                errors += failed
                said.append(
                    {"who": "environment", "for": turn, "role": "tool", "tool_call_id": call["id"], "content": answer}
                )
            count += 1
            continue
        if turn == "user" and any(s in text for s in STOPS):
            return Talk(tuple(said), "stop", count, tokens)
        turn = "user" if turn == "assistant" else "assistant"


def seen(said: Sequence[Mapping[str, Any]], by: str, system: str) -> list[Message]:
    """The conversation as one side sees it: its own turns and what its tools answered, and what the other said aloud."""
    messages: list[Message] = [{"role": "system", "content": system}]
    for m in said:
        if m["who"] == by or m.get("for") == by:
            messages.append({k: v for k, v in m.items() if k not in ("who", "for")})
        elif m["who"] in ("assistant", "user") and not m.get("tool_calls"):
            messages.append({"role": "user", "content": m["content"]})
    return messages


def _call(call: Mapping[str, Any], at: int, index: int) -> dict[str, Any]:
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": str(call.get("name", "")), "arguments": text}
    return {"id": f"call_{at}_{index}", "type": "function", "function": function}


def _arguments(call: Mapping[str, Any]) -> Any:
    try:
        return json.loads(call["function"]["arguments"] or "{}")
    except ValueError:
        return None


def reward(task: Mapping[str, Any], databases: Databases, messages: Sequence[Mapping[str, Any]], ended: str) -> Reward:
    """The product of the parts in the task's reward_basis; nothing when the customer did not end the conversation."""
    if ended != "stop":
        why = {"steps": "the steps ran out", "errors": "too many failed calls", "empty": "no message from the agent"}
        return Reward(0.0, why.get(ended, ended), {})
    wanted = task["evaluation_criteria"] or {}
    start = (task.get("initial_state") or {}).get("initialization_actions") or ()
    world = World(databases)
    world.begin(start)
    calls = [(m["who"], c) for m in messages for c in m.get("tool_calls") or ()]
    for who, call in calls:
        world.call(who, call["function"]["name"], _arguments(call))
    basis = [str(b) for b in wanted.get("reward_basis") or ("DB", "COMMUNICATE")]
    parts: dict[str, float] = {}
    if "ENV_ASSERTION" in basis:
        parts["ENV_ASSERTION"] = float(all(world.holds(a) for a in wanted.get("env_assertions") or ()))
    if "DB" in basis:
        target = World(databases)
        target.begin(start)
        for action in wanted.get("actions") or ():
            target.call(action.get("requestor", "assistant"), action["name"], action["arguments"])
        parts["DB"] = float(world.state() == target.state())
    if "ACTION" in basis:
        parts["ACTION"] = float(all(any(_matches(a, c) for _, c in calls) for a in wanted.get("actions") or ()))
    if "COMMUNICATE" in basis:
        aloud = [m["content"].lower().replace(",", "") for m in messages if m["who"] == "assistant"]
        needed = [str(i).lower() for i in wanted.get("communicate_info") or ()]
        parts["COMMUNICATE"] = float(all(any(i in text for text in aloud) for i in needed))
    value = 1.0
    for part in parts.values():
        value *= part
    missed = [name for name, part in parts.items() if not part]
    return Reward(value, f"not met: {', '.join(missed)}" if missed else "every part met", parts)


def _matches(action: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
    """Whether a call is the action: the same tool, and the same arguments among those compared."""
    arguments = _arguments(call)
    if action["name"] != call["function"]["name"] or not isinstance(arguments, Mapping):
        return False
    compared = action.get("compare_args")
    keys = set(arguments) if compared is None else set(compared)
    return {k: v for k, v in arguments.items() if k in keys} == {
        k: v for k, v in action["arguments"].items() if k in keys
    }  # fmt: skip
