"""A Terminal-Bench task's folder (terminal-bench-core): task.yaml, Dockerfile, docker-compose.yaml, tests/, run-tests.sh."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from h1r.errors import DataError

HIDDEN = ("solution.sh", "solution.yaml", "tests", "run-tests.sh", "task.yaml", "Dockerfile", "docker-compose.yaml")
"""What an agent must not see, or what is no part of its files."""
RESULT = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\s+(\S+)", re.MULTILINE)
SUMMARY = re.compile(r"=+ .*short test summary info.* =+")
COUNT = re.compile(r"=+ .*?(\d+) (passed|failed|error)s?\b.* in [\d.]+s.*=+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """agent_s, test_s: seconds at most, for the agent and for the tests."""

    name: str
    folder: Path
    instruction: str
    agent_s: float
    test_s: float
    category: str = ""
    difficulty: str = ""


def read(folder: Path) -> Task:
    """A task's folder. Raises DataError."""
    path = folder / "task.yaml"
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        instruction = told.get("instruction") or told["descriptions"][0]["description"]
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError, AttributeError) as e:
        raise DataError(f"{path}: no Terminal-Bench task ({e}); fetch terminal-bench-core again") from None
    if not (folder / "run-tests.sh").is_file() and not (folder / "tests").is_dir():
        raise DataError(f"{folder}: a task without tests; fetch terminal-bench-core again")
    return Task(
        name=folder.name, folder=folder, instruction=str(instruction), category=str(told.get("category", "")),
        agent_s=float(told.get("max_agent_timeout_sec", 360)), test_s=float(told.get("max_test_timeout_sec", 60)),
        difficulty=str(told.get("difficulty", "")),
    )  # fmt: skip


def results(output: str) -> dict[str, bool]:
    """What pytest's short summary (-rA) says test by test; its closing counts where there is no summary."""
    parts = SUMMARY.split(output)
    found = {name: word in ("PASSED", "XFAIL", "SKIPPED") for word, name in RESULT.findall(parts[-1])}
    if found or len(parts) > 1:
        return found
    counts = COUNT.findall(output)
    if not counts:
        return {}
    bad = re.search(r"\d+ (?:failed|errors?)\b", output.rsplit("\n=", 1)[-1])
    return {"all": not bad}
