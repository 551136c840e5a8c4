"""Terminus 2 (laude-institute/terminal-bench, Apache-2.0): batches of keystrokes as JSON, the screen in return, until the model
says twice that the task is done. Prompts word for word as published; the loop is ours.

    work(instruction, terminal, respond, episodes=100, seconds=...) -> Work

When the conversation no longer fits the model's context, the published hand-off: the model sums up, a fresh one asks, the first
answers, the second goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from h1r.errors import ContextError
from h1r.evals.terminal.screen import Terminal
from h1r.types import Message, StopReason, Trace

Respond = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], Trace]
EPISODES = 100
LONGEST = 60.0  # seconds one command is waited for
MAX_BYTES = 10_000  # of a screen that is shown
PROMPT = """You are an AI assistant tasked with solving command-line tasks in a Linux environment. You will be given a task description and the output from previously executed commands. Your goal is to solve the task by providing batches of shell commands.

Format your response as JSON with the following structure:

{
  "analysis": "Analyze the current state based on the terminal output provided. What do you see? What has been accomplished? What still needs to be done?",
  "plan": "Describe your plan for the next steps. What commands will you run and why? Be specific about what you expect each command to accomplish.",
  "commands": [
    {
      "keystrokes": "ls -la\\n",
      "duration": 0.1
    },
    {
      "keystrokes": "cd project\\n",
      "duration": 0.1
    }
  ],
  "task_complete": true
}

Required fields:
- "analysis": Your analysis of the current situation
- "plan": Your plan for the next steps
- "commands": Array of command objects to execute

Optional fields:
- "task_complete": Boolean indicating if the task is complete (defaults to false if not present)

Command object structure:
- "keystrokes": String containing the exact keystrokes to send to the terminal (required)
- "duration": Number of seconds to wait for the command to complete before the next command will be executed (defaults to 1.0 if not present)

IMPORTANT: The text inside "keystrokes" will be used completely verbatim as keystrokes. Write commands exactly as you want them sent to the terminal:
- Most bash commands should end with a newline (\\n) to cause them to execute
- For special key sequences, use tmux-style escape sequences:
  - C-c for Ctrl+C
  - C-d for Ctrl+D

The "duration" attribute specifies the number of seconds to wait for the command to complete (default: 1.0) before the next command will be executed. On immediate tasks (e.g., cd, ls, echo, cat) set a duration of 0.1 seconds. On commands (e.g., gcc, find, rustc) set a duration of 1.0 seconds. On slow commands (e.g., make, python3 [long running script], wget [file]) set an appropriate duration as you determine necessary.

It is better to set a smaller duration than a longer duration. It is always possible to wait again if the prior output has not finished, by running {"keystrokes": "", "duration": 10.0} on subsequent requests to wait longer. Never wait longer than 60 seconds; prefer to poll to see intermediate result status.

Important notes:
- Each command's keystrokes are sent exactly as written to the terminal
- Do not include extra whitespace before or after the keystrokes unless it's part of the intended command
- Extra text before or after the JSON will generate warnings but be tolerated
- The JSON must be valid - use proper escaping for quotes and special characters within strings
- Commands array can be empty if you want to wait without taking action

Task Description:
<<instruction>>

Current terminal state:
<<terminal>>"""  # noqa: E501
SURE = (
    "Current terminal state:\n{terminal}\n\nAre you sure you want to mark the task as complete? This will trigger your solution "
    'to be graded and you won\'t be able to make any further corrections. If so, include "task_complete": true in your JSON '
    "response again."
)
UNREAD = (
    "Previous response had parsing errors:\n{feedback}\n\nPlease fix these issues and provide a proper JSON response."
)
WARNED = "Previous response had warnings:\n{feedback}\n\n{terminal}"
TOO_LONG = (
    "ERROR!! NONE of the actions you just requested were performed because you exceeded {limit}. Your outputs must be less than "
    "{limit}. Re-issue this request, breaking it into chunks each of which is less than {limit}."
)
SUMMARY = (
    "You are about to hand off your work to another AI agent. Please provide a comprehensive summary of what you have "
    "accomplished so far on this task:\n\nOriginal Task: {instruction}\n\nBased on the conversation history, please provide a "
    "detailed summary covering:\n1. **Major Actions Completed** - List each significant command you executed and what you "
    "learned from it.\n2. **Important Information Learned** - A summary of crucial findings, file locations, configurations, "
    "error messages, or system state discovered.\n3. **Challenging Problems Addressed** - Any significant issues you "
    "encountered and how you resolved them.\n4. **Current Status** - Exactly where you are in the task completion process.\n\n"
    "Be comprehensive and detailed. The next agent needs to understand everything that has happened so far in order to continue."
)
QUESTIONS = (
    "You are picking up work from a previous AI agent on this task:\n\n**Original Task:** \n{instruction}\n\n"
    "**Summary from Previous Agent:**\n{summary}\n\n**Current Terminal Screen:**\n{terminal}\n\nPlease begin by asking several "
    "questions (at least five, more if necessary)\nabout the current state of the solution that are not answered in the\nsummary "
    "from the prior agent. After you ask these questions you will\nbe on your own, so ask everything you need to know.\n"
)
ANSWERS = "The next agent has a few questions for you, please answer each of them one by one in detail:\n\n{questions}"
GO_ON = (
    "Here are the answers the other agent provided.\n\n{answers}\n\nContinue working on this task from where the previous agent "
    "left off. You can no longer ask questions. Please follow the spec to interact with the terminal."
)


class Command(NamedTuple):
    keystrokes: str
    seconds: float


class Parsed(NamedTuple):
    """A reply read: error "" when it could be; warnings in words."""

    commands: tuple[Command, ...]
    done: bool
    error: str = ""
    warning: str = ""


class Work(NamedTuple):
    """messages: the conversation, hand-offs included. ended: done, steps, time, context, or gone (the shell died)."""

    messages: tuple[Message, ...]
    ended: str
    episodes: int
    tokens: int


def parse(reply: str) -> Parsed:
    """The first whole JSON object of a reply."""
    start, end = _object(reply)
    if start < 0:
        return Parsed((), False, "No valid JSON found in response", "- No valid JSON object found")
    extra = [f"Extra text detected {side} JSON object" for side, text in (("before", reply[:start]), ("after", reply[end:]))
             if text.strip()]  # fmt: skip
    warning = "\n".join(f"- {e}" for e in extra)
    try:
        told = json.loads(reply[start:end], strict=False)
    except ValueError as e:
        return Parsed((), False, f"Invalid JSON: {e}", warning)
    missing = [f for f in ("analysis", "plan", "commands") if f not in told]
    if missing:
        return Parsed((), False, f"Missing required fields: {', '.join(missing)}", warning)
    if not isinstance(told["commands"], list):
        return Parsed((), False, "Field 'commands' must be an array", warning)
    commands = []
    for number, item in enumerate(told["commands"], 1):
        if not isinstance(item, dict) or not isinstance(item.get("keystrokes"), str):
            return Parsed((), False, f"Command {number} must be an object with a string 'keystrokes'", warning)
        seconds = item.get("duration", 1.0)
        good = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0
        commands.append(Command(item["keystrokes"], min(float(seconds) if good else 1.0, LONGEST)))
    done = told.get("task_complete", False)
    done = done.lower() in ("true", "1", "yes") if isinstance(done, str) else bool(done)
    return Parsed(tuple(commands), done, "", warning)


def _object(text: str) -> tuple[int, int]:
    """Start and end of the first balanced {...}, quotes respected; (-1, -1) where there is none."""
    depth, start, quoted, skip = 0, -1, False, False
    for i, c in enumerate(text):
        if skip:
            skip = False
        elif c == "\\":
            skip = quoted
        elif c == '"':
            quoted = not quoted if depth else False
        elif not quoted and c == "{":
            start = i if depth == 0 else start
            depth += 1
        elif not quoted and c == "}" and depth:
            depth -= 1
            if depth == 0:
                return start, i + 1
    return -1, -1


def shown(text: str) -> str:
    """A screen of at most MAX_BYTES: its beginning and its end."""
    data = text.encode()
    if len(data) <= MAX_BYTES:
        return text
    half = MAX_BYTES // 2
    first, last = (part.decode("utf-8", "ignore") for part in (data[:half], data[-half:]))
    left = len(data) - 2 * half
    return f"{first}\n[... output limited to {MAX_BYTES} bytes; {left} interior bytes omitted ...]\n{last}"


class _Chat:
    """The conversation and what it cost."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.messages: list[Message] = []
        self.past: list[Message] = []
        self.tokens = 0

    def say(self, text: str) -> Trace:
        """Raises ContextError when it no longer fits; then nothing was said."""
        asked: Message = {"role": "user", "content": text}
        trace = self.respond([*self.messages, asked], ())
        self.tokens += len(trace.token_ids)
        self.messages += [asked, {"role": "assistant", "content": trace.content}]
        return trace

    def hand_off(self, instruction: str, first: str, screen: str) -> str:
        """Sum up, question, answer; the next prompt. The oldest exchanges are left out until the summing up fits."""
        kept = list(self.messages)
        while True:
            try:
                summary = self._aside(kept, SUMMARY.format(instruction=instruction))
                break
            except ContextError:
                if len(kept) <= 2:
                    raise
                kept = kept[:1] + kept[3:] if len(kept) > 3 else kept[:1]
        questions = self._aside([], QUESTIONS.format(instruction=instruction, summary=summary, terminal=screen))
        answers = self._aside(kept, ANSWERS.format(questions=questions))
        self.past += self.messages
        asked = QUESTIONS.format(instruction=instruction, summary=summary, terminal=screen)
        self.messages = [
            {"role": "user", "content": first}, {"role": "user", "content": asked},
            {"role": "assistant", "content": questions},
        ]  # fmt: skip
        return GO_ON.format(answers=answers)

    def _aside(self, messages: Sequence[Message], text: str) -> str:
        trace = self.respond([*messages, {"role": "user", "content": text}], ())
        self.tokens += len(trace.token_ids)
        return trace.content


def work(
    instruction: str, terminal: Terminal, respond: Respond, *, episodes: int = EPISODES, seconds: float = 86_400.0
) -> Work:
    """Let the model work. Raises what its server raises, a full context excepted."""
    chat, end, count, asked_once = _Chat(respond), time.monotonic() + seconds, 0, False
    terminal.seen = terminal.lines()
    first = PROMPT.replace("<<instruction>>", instruction).replace("<<terminal>>", shown(terminal.visible()))
    prompt = first

    def over(why: str) -> Work:
        return Work((*chat.past, *chat.messages), why, count, chat.tokens)

    while count < episodes:
        if time.monotonic() > end:
            return over("time")
        count += 1
        try:
            trace = chat.say(prompt)
        except ContextError:
            try:
                prompt = chat.hand_off(instruction, first, shown(terminal.visible()))
                trace = chat.say(prompt)
            except ContextError:
                return over("context")
        if trace.stop == StopReason.LENGTH:
            prompt = TOO_LONG.format(limit=f"{len(trace.token_ids)} tokens")
            continue
        told = parse(trace.content)
        if told.error:
            feedback = f"ERROR: {told.error}" + (f"\nWARNINGS: {told.warning}" if told.warning else "")
            prompt = UNREAD.format(feedback=feedback)
            continue
        for command in told.commands:
            terminal.send(command.keystrokes, min(command.seconds, max(0.0, end - time.monotonic())))
        screen = shown(terminal.new())
        if told.done and asked_once:
            return over("done")
        asked_once = told.done
        if told.done:
            prompt = SURE.format(terminal=screen)
        else:
            prompt = WARNED.format(feedback=f"WARNINGS: {told.warning}", terminal=screen) if told.warning else screen
        if not terminal.alive:
            return over("gone")
    return over("steps")
