"""Where a task's commands run: a container built from its Dockerfile, or this machine's sandbox for tasks that are only files.

    with open_place(task, kind) as place:
        place.terminal                      # what the agent types at
        place.test(task)                    # afterwards: tests enter, run, and leave their output

Sandbox (bubblewrap): /usr read-only, the task's files at /app, no network, an unprivileged user. The tests run in a second
sandbox over the same files: what the agent left running is gone by then. A Dockerfile that installs something needs a container.
"""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from h1r.errors import ConfigError, SandboxError
from h1r.evals.terminal.screen import Terminal
from h1r.evals.terminal.task import HIDDEN, Task

KINDS = ("docker", "podman", "sandbox")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/app", "TERM": "xterm-256color", "LANG": "C.UTF-8"}
MEMORY, FILE = 8 << 30, 2 << 30  # bytes of address space of a process, and of one file
START = 1800.0  # seconds to build and start a container
MAX_OUTPUT = 1 << 20  # characters of the tests' output that are kept


class Place(Protocol):
    """terminal: the agent's. test: run the task's tests, seconds at most; (output, whether they ended in time)."""

    terminal: Terminal

    def test(self, task: Task, seconds: float) -> tuple[str, bool]: ...


def choose(kind: str) -> str:
    """The kind asked for, or the first that is here: docker, podman, sandbox. Raises SandboxError or ConfigError."""
    if kind and kind not in KINDS:
        raise ConfigError(f"terminal place {kind!r}: there are {', '.join(KINDS)}")
    for name in (kind,) if kind else KINDS:
        if name == "sandbox":
            if shutil.which("bwrap"):
                return name
        elif shutil.which(name) and _quiet([name, "info"], 20):
            return name
    raise SandboxError(
        f"no place for terminal tasks ({kind or 'docker, podman, sandbox'}): install bubblewrap or start a container engine"
    )


@contextmanager
def open_place(task: Task, kind: str) -> Iterator[Place]:
    """The task's place, started; everything of it is gone afterwards."""
    place = _Sandbox(task) if kind == "sandbox" else _Container(task, kind)
    try:
        yield place
    finally:
        place.close()


class _Sandbox:
    """Bubblewrap over a copy of the task's files."""

    def __init__(self, task: Task) -> None:
        files = _files(task)
        self.folder = Path(tempfile.mkdtemp(prefix="h1r-task-"))
        self.user = 200_000 + secrets.randbelow(400_000) if os.geteuid() == 0 else None
        for name in ("app", "tests"):
            (self.folder / name).mkdir()
        for source, target in files:
            goal = self.folder / "app" / target
            goal.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, goal, dirs_exist_ok=True, symlinks=True)
            else:
                shutil.copy2(source, goal)
        self._give()
        try:
            self.terminal = Terminal(self._argv(["bash", "--norc", "--noprofile"]), ENVIRONMENT, self._lower())
        except (OSError, subprocess.SubprocessError) as e:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise SandboxError(f"bubblewrap would not start ({e})") from None
        self.terminal.send("PS1='root@sandbox:\\w# '; clear\n", 0.5)

    def _give(self) -> None:
        """The files to the user that commands run as."""
        os.chmod(self.folder, 0o755)
        if self.user is not None:
            for folder, _, names in os.walk(self.folder):
                for path in (folder, *(os.path.join(folder, n) for n in names)):
                    os.chown(path, self.user, self.user, follow_symlinks=False)

    def _argv(self, command: Sequence[str]) -> list[str]:
        words = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"]
        for path in ("/bin", "/sbin", "/lib", "/lib64", "/lib32"):
            if os.path.islink(path):
                words += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                words += ["--ro-bind", path, path]
        for path in ("/etc/alternatives", "/etc/ld.so.cache"):
            words += ["--ro-bind-try", path, path]
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--hostname", "sandbox"]
        for name in ("app", "tests"):
            words += ["--bind", str(self.folder / name), f"/{name}"]
        words += ["--chdir", "/app", "--clearenv"]
        for name, value in {**ENVIRONMENT, "TEST_DIR": "/tests"}.items():
            words += ["--setenv", name, value]
        return [*words, "--", *command]

    def _lower(self) -> Callable[[], None]:
        user = self.user

        def lower() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if user is not None:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)

        return lower

    def test(self, task: Task, seconds: float) -> tuple[str, bool]:
        self.terminal.close()
        _bring(task, self.folder / "tests")
        self._give()
        return _output(self._argv(["bash", "/tests/run-tests.sh"]), seconds, dict(ENVIRONMENT), self._lower())

    def close(self) -> None:
        self.terminal.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class _Container:
    """docker compose (or podman's) on the task's own files, with the variables they expect."""

    def __init__(self, task: Task, engine: str) -> None:
        self.engine, self.task = engine, task
        self.name = f"h1r-{task.name.lower()}-{secrets.token_hex(4)}"
        self.logs = tempfile.mkdtemp(prefix="h1r-task-logs-")
        self.env = dict(os.environ) | {
            "T_BENCH_TASK_DOCKER_CLIENT_IMAGE_NAME": f"h1r-{task.name.lower()}",
            "T_BENCH_TASK_DOCKER_CLIENT_CONTAINER_NAME": self.name,
            "T_BENCH_TASK_DOCKER_NAME_PREFIX": self.name,
            "T_BENCH_TEST_DIR": "/tests",
            "T_BENCH_TASK_LOGS_PATH": self.logs, "T_BENCH_CONTAINER_LOGS_PATH": "/logs",
            "T_BENCH_TASK_AGENT_LOGS_PATH": self.logs, "T_BENCH_CONTAINER_AGENT_LOGS_PATH": "/agent-logs",
        }  # fmt: skip
        self.compose = [engine, "compose", "-p", self.name, "-f", str(task.folder / "docker-compose.yaml")]
        output, ended = _output([*self.compose, "up", "-d", "--build"], START, self.env)
        if not ended or not _quiet([engine, "exec", self.name, "true"], 60):
            self._down()
            raise SandboxError(f"{task.name}: its container would not start: {output[-300:]}")
        self.terminal = Terminal([engine, "exec", "-it", self.name, "bash"], self.env)
        self.terminal.send("clear\n", 1.0)

    def test(self, task: Task, seconds: float) -> tuple[str, bool]:
        with tempfile.TemporaryDirectory() as folder:
            _bring(task, Path(folder))
            run = [self.engine, "exec", self.name]
            if not (
                _quiet([*run, "mkdir", "-p", "/tests"], 60)
                and _quiet([self.engine, "cp", f"{folder}/.", f"{self.name}:/tests"], 300)
            ):
                raise SandboxError(f"{task.name}: the tests could not be brought into its container")
        return _output(
            [self.engine, "exec", "-e", "TEST_DIR=/tests", self.name, "bash", "/tests/run-tests.sh"], seconds, self.env
        )

    def _down(self) -> None:
        _quiet([*self.compose, "down", "--volumes", "--remove-orphans"], 300)
        shutil.rmtree(self.logs, ignore_errors=True)

    def close(self) -> None:
        self.terminal.close()
        self._down()


def _files(task: Task) -> list[tuple[Path, str]]:
    """(source, place below /app) of a task without a container: what its Dockerfile copies, or all its files."""
    dockerfile = task.folder / "Dockerfile"
    if not dockerfile.is_file():
        return [(p, p.name) for p in sorted(task.folder.iterdir()) if p.name not in HIDDEN]
    found: list[tuple[Path, str]] = []
    for line in dockerfile.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.strip().partition(" ")
        parts = [p for p in rest.split() if not p.startswith("--")]
        if not word or word.startswith("#") or word.upper() in ("FROM", "ENV", "CMD", "ARG", "LABEL", "USER"):
            continue
        if word.upper() == "WORKDIR" and rest.strip().rstrip("/") == "/app":
            continue
        if word.upper() in ("COPY", "ADD") and len(parts) >= 2 and not line.rstrip().endswith("\\"):
            target = parts[-1].removeprefix("/app").lstrip("./")
            if not parts[-1].startswith("/") or parts[-1].startswith("/app"):
                folder = parts[-1].endswith(("/", ".")) or parts[-1] == "/app" or len(parts) > 2
                for source in parts[:-1]:
                    name = (
                        f"{target.rstrip('/')}/{Path(source).name}" if folder and source not in (".", "./") else target
                    )
                    found.append((task.folder / source, name.lstrip("/")))
                continue
        raise SandboxError(f"{task.name}: its Dockerfile asks for {line.strip()[:80]!r}: that needs docker or podman")
    for given, _ in found:
        if not given.exists() or not given.resolve().is_relative_to(task.folder.resolve()):
            raise SandboxError(f"{task.name}: {given} is not among its files")
    return found


def _bring(task: Task, folder: Path) -> None:
    """The tests, and the script that runs them, into a folder."""
    if (task.folder / "tests").is_dir():
        shutil.copytree(task.folder / "tests", folder, dirs_exist_ok=True)
    if (task.folder / "run-tests.sh").is_file():
        shutil.copy2(task.folder / "run-tests.sh", folder / "run-tests.sh")
    else:
        (folder / "run-tests.sh").write_text("python3 -m pytest $TEST_DIR/test_outputs.py -rA\n")


def _output(
    argv: Sequence[str], seconds: float, env: dict[str, str], before: Callable[[], None] | None = None
) -> tuple[str, bool]:
    """(what a program printed, whether it ended in time); its whole group is killed when it did not."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, preexec_fn=before, start_new_session=True
        )
        try:
            process.wait(seconds)
            ended = True
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            ended = False
        size = out.seek(0, 2)
        out.seek(max(0, size - MAX_OUTPUT))
        return out.read().decode("utf-8", "replace"), ended


def _quiet(argv: Sequence[str], seconds: float) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, timeout=seconds, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
