"""Terminal-Bench: the terminal, the agent's prompts and loop, places, and a task worked on by a scripted model."""

import json
import shutil
import time

import pytest

from h1r.errors import ContextError, DataError, SandboxError
from h1r.evals import SUITES, Episodes, Setting, run_episodes
from h1r.evals.terminal import place, terminus
from h1r.evals.terminal import task as tasks
from h1r.evals.terminal.screen import Terminal, typed
from h1r.types import Prompt, SamplingParams, StopReason, Trace

needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
ENV = {"PATH": "/usr/bin:/bin", "TERM": "xterm", "PS1": "$ "}


def reply(*commands, done=False, **more):
    told = {"analysis": "a", "plan": "p", "commands": [{"keystrokes": k, "duration": s} for k, s in commands]}
    return json.dumps(told | {"task_complete": done} | more)


class Model:
    """Writes its replies in order; keeps what it was asked. A ContextError in the list is raised."""

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), []

    def __call__(self, messages, tools, *_):
        self.asked.append([m["content"] for m in messages])
        said = self.replies.pop(0)
        if isinstance(said, Exception):
            raise said
        stop = StopReason.LENGTH if said == "LENGTH" else StopReason.STOP
        return Trace(prompt=Prompt(), token_ids=(0,) * 7, stop=stop, content=said)


@pytest.fixture
def shell():
    made = Terminal(["bash", "--norc", "--noprofile"], ENV)
    made.send("", 0.3)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "terminal_bench_hard" / "count-lines"
    (made / "tests").mkdir(parents=True)
    (made / "task.yaml").write_text(
        "instruction: |-\n  Write the number of lines of notes.txt to answer.txt.\ncategory: files\n"
    )
    (made / "notes.txt").write_text("a\nb\nc\n")
    (made / "solution.sh").write_text("wc -l < notes.txt > answer.txt\n")
    (made / "run-tests.sh").write_text(
        'echo "===== short test summary info ====="\n'
        'if [ "$(cat /app/answer.txt 2>/dev/null | tr -d " ")" = "$(cat $TEST_DIR/want)" ]; then\n'
        '  echo "PASSED tests/test_outputs.py::test_count"; else echo "FAILED tests/test_outputs.py::test_count"; fi\n'
    )
    (made / "tests" / "want").write_text("3")
    return tmp_path


def test_keys():
    assert [typed(k) for k in ("C-c", "C-d", "Enter", "Escape", "ls -la\n", "C-", "Cxc")] == [
        "\x03", "\x04", "\r", "\x1b", "ls -la\r", "C-", "Cxc"
    ]  # fmt: skip


def test_a_terminal_shows_what_is_new_and_what_was_redrawn(shell):
    shell.new()
    shell.send("echo one; echo two\n", 0.4)
    assert shell.new() == "New Terminal Output:\n\n$ echo one; echo two\none\ntwo\n$"
    shell.send("seq 1 100\n", 0.4)
    fresh = shell.new().split("\n")
    assert fresh[2:5] == ["$ seq 1 100", "1", "2"] and fresh[-2:] == ["100", "$"]
    assert len(shell.visible().split("\n")) <= 40
    shell.send("clear; echo after\n", 0.4)
    assert shell.new() == "Current Terminal Screen:\nafter\n$"
    shell.send("sleep 100\n", 0.2)
    shell.send("C-c", 0.3)
    shell.send("echo back\n", 0.3)
    assert "back" in shell.new()
    shell.send("exit\n", 0.5)
    patience = time.monotonic() + 20
    while shell.alive and time.monotonic() < patience:
        time.sleep(0.05)
    assert not shell.alive
    shell.send("echo nobody\n", 0.1)


@pytest.mark.parametrize(
    ("text", "error", "warning"),
    [
        (reply(("ls\n", 0.1)), "", ""),
        (f"Sure:\n```json\n{reply(('ls', 0.1))}\n```", "", "before"),
        ("no json", "No valid JSON", "No valid JSON"),
        ('{"analysis": "a", "plan": "p"}', "Missing required fields: commands", ""),
        ('{"analysis": "a", "plan": "p", "commands": 3}', "must be an array", ""),
        ('{"analysis": "a", "plan": "p", "commands": [{"keys": 1}]}', "Command 1", ""),
        ('{"analysis": "a} {", "plan": "\\"p", "commands": []}', "", ""),
        ('{"analysis": "a", "plan": "p", "commands": [}', "Invalid JSON", ""),
    ],
)
def test_replies_are_read(text, error, warning):
    told = terminus.parse(text)
    assert error in told.error and (not told.error or error) and warning in told.warning


def test_durations_and_flags():
    told = terminus.parse(reply(("a", 500), ("b", -1), ("c", "x"), task_complete="true"))
    assert [c.seconds for c in told.commands] == [60.0, 1.0, 1.0] and told.done
    assert terminus.shown("x" * 9_999) == "x" * 9_999
    long = terminus.shown("a" * 9_000 + "b" * 9_000)
    assert long == "a" * 5000 + "\n[... output limited to 10000 bytes; 8000 interior bytes omitted ...]\n" + "b" * 5000


def test_the_loop_asks_twice_mends_replies_and_stops(shell):
    model = Model(
        "not json", "LENGTH", f"note {reply(('echo hi', 0.1), (chr(10), 0.3))}", reply(done=True), reply(("pwd\n", 0.2)),
        reply(done=True), reply(done=True),
    )  # fmt: skip
    told = terminus.work("Say hi.", shell, model)
    assert (told.ended, told.episodes, told.tokens) == ("done", 7, 49)
    prompts = [a[-1] for a in model.asked]
    assert prompts[0].startswith("You are an AI assistant tasked with solving command-line tasks")
    assert "Task Description:\nSay hi.\n\nCurrent terminal state:\n" in prompts[0]
    assert '      "keystrokes": "ls -la\\n",' in prompts[0]
    assert prompts[1].startswith(
        "Previous response had parsing errors:\nERROR: No valid JSON found in response\nWARNINGS:"
    )
    assert prompts[2].startswith("ERROR!! NONE of the actions")
    assert prompts[3].startswith("Previous response had warnings:\nWARNINGS: - Extra text detected before JSON object")
    assert "echo hi\nhi" in prompts[3]
    assert "Are you sure you want to mark the task as complete?" in prompts[4]
    assert prompts[5].startswith("New Terminal Output:") and "Are you sure" in prompts[6]
    assert terminus.work("x", shell, Model(*[reply()] * 5), episodes=3).ended == "steps"
    assert terminus.work("x", shell, Model(reply()), seconds=0).ended == "time"


def test_a_full_context_is_handed_off(shell):
    full = ContextError("too long")
    model = Model(reply(), full, "SUMMARY", "QUESTIONS", "ANSWERS", reply(done=True), reply(done=True))
    told = terminus.work("Do it.", shell, model)
    assert told.ended == "done"
    assert "hand off your work" in model.asked[2][-1] and "SUMMARY" in model.asked[3][-1]
    assert "QUESTIONS" in model.asked[4][-1] and model.asked[5][-1].startswith("Here are the answers")
    assert [c[:9] for c in model.asked[5]] == ["You are a", "You are p", "QUESTIONS", "Here are "]
    assert terminus.work("x", shell, Model(full, full)).ended == "context"


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("== short test summary info ==\nPASSED a::b\nFAILED a::c - x\n", {"a::b": True, "a::c": False}),
        ("PASSED forged\n== short test summary info ==\nERROR a::b\n", {"a::b": False}),
        ("=== 3 passed in 0.10s ===\n", {"all": True}),
        ("=== 1 failed, 3 passed in 0.10s ===\n", {"all": False}),
        ("bash: pytest: command not found\n", {}),
    ],
)
def test_results(output, found):
    assert tasks.results(output) == found


@needs_bwrap
def test_a_task_is_worked_on_and_tested(folder, tmp_path):
    suite = SUITES["terminal_bench_hard"]
    (problem,) = suite.load(folder, options={"tasks": "all"})
    assert problem.messages[0]["content"] == "Write the number of lines of notes.txt to answer.txt."
    right = Model(
        reply(("ls / /app /tests\n", 0.5)),
        reply(("wc -l < notes.txt > answer.txt\n", 0.5)),
        reply(done=True),
        reply(done=True),
    )
    how = {"model": "m", "sampling": SamplingParams(seed=0), "workers": 1}
    episodes = Episodes(tmp_path / "e.jsonl")
    (item,) = run_episodes([problem], suite.agent, Setting(place="sandbox"), episodes, write=right, **how)
    assert item.value == 1.0, item.why
    listing = right.asked[1][-1]
    assert "notes.txt" in listing and "want" not in listing and "solution.sh" not in listing
    wrong = Model(reply(("echo 4 > answer.txt\n", 0.3)), reply(done=True), reply(done=True))
    (missed,) = run_episodes(
        [problem], suite.agent, Setting(place="sandbox"), Episodes(tmp_path / "f.jsonl"), write=wrong, **how
    )
    assert missed.value == 0.0 and "test_count" in missed.why


@needs_bwrap
def test_the_sandbox_is_one(folder):
    one = tasks.read(folder / "terminal_bench_hard" / "count-lines")
    secret = folder / "secret"
    secret.write_text("hidden")
    with place.open_place(one, "sandbox") as where:
        where.terminal.send(f"cat {secret}; cat /etc/passwd; touch /usr/x; id -u; echo $HOME; ls /tests\n", 0.8)
        shown = where.terminal.new()
        root = str(where.folder)
    assert "hidden" not in shown and "root:x" not in shown and "Read-only file system" in shown and "/app" in shown
    assert not shutil.os.path.exists(root)


def test_dockerfiles_that_install_need_an_engine(folder):
    path = folder / "terminal_bench_hard" / "count-lines"
    (path / "Dockerfile").write_text(
        "FROM ubuntu\nWORKDIR /app\nCOPY notes.txt ./data/\nCOPY notes.txt /app/copy.txt\n"
    )
    one = tasks.read(path)
    assert [t for _, t in place._files(one)] == ["data/notes.txt", "copy.txt"]
    (path / "Dockerfile").write_text("FROM ubuntu\nRUN apt-get install -y gcc\n")
    with pytest.raises(SandboxError, match="needs docker"):
        place._files(one)
    (path / "Dockerfile").write_text("FROM ubuntu\nCOPY ../../secret ./\n")
    with pytest.raises(SandboxError, match="not among its files"):
        place._files(one)
    (path / "task.yaml").write_text("- nothing\n")
    with pytest.raises(DataError, match=r"no Terminal-Bench task"):
        tasks.read(path)


def test_the_suite_says_what_to_fetch(tmp_path):
    with pytest.raises(DataError, match="74221fb"):
        SUITES["terminal_bench_hard"].load(tmp_path)
    assert len(set(SUITES["terminal_bench_hard"].make.__globals__["HARD"])) == 47
