"""Compiles the kernel for this very processor, once, and keeps the library in the user's cache folder.

Its name is a hash of sources, flags, compiler and processor: another machine, or a changed source, compiles anew. Two
processes that compile at once each write their own file and rename it; the last one wins, with equal contents.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "kernel"
FLAGS = (
    "-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 300  # a compiler that takes longer is given up


class BuildError(Exception):
    """The kernel could not be compiled here; PyTorch computes instead."""


@cache
def available() -> bool:
    """Whether the kernel works on this machine; compiles it at the first call. Says why not, once."""
    try:
        from h1r.engine.native.library import library

        library()
    except (BuildError, OSError) as e:
        logger.warning("the CPU kernel is off, PyTorch computes instead (several times slower): %s", e)
        return False
    return True


def compiled(machine: str = "native", folder: Path | None = None) -> Path:
    """The library's file. Raises BuildError.

    machine  what -march takes: "native", or a named level such as "x86-64-v3" (AVX2), "x86-64" (SSE2)
    folder   where it is kept; None: the user's cache folder
    """
    compiler = find()
    flags = (*FLAGS, f"-march={machine}" if platform.machine() == "x86_64" else f"-mcpu={machine}")
    files = sorted(SOURCES.iterdir())
    key = hashlib.sha256()
    for part in (compiler, _version(compiler), *flags, _processor(), *(f.read_text(encoding="utf-8") for f in files)):
        key.update(part.encode() + b"\0")
    folder = folder or cache_folder()
    target = folder / f"{key.hexdigest()[:24]}.so"
    if not target.is_file():
        _compile(compiler, flags, target)
    return target


def find() -> str:
    """The machine's C++ compiler. Raises BuildError."""
    for name in COMPILERS:
        path = shutil.which(name)
        if path:
            return path
    raise BuildError(f"no C++ compiler ({', '.join(COMPILERS)}); install one, e.g. Debian's package g++")


def cache_folder() -> Path:
    """The user's cache folder for compiled kernels; a private temporary one where that cannot be written."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "h1r" / "native"
    try:
        base.mkdir(parents=True, exist_ok=True)
        if os.access(base, os.W_OK):
            return base
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="h1r-native-"))


def _compile(compiler: str, flags: tuple[str, ...], target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="h1r-build-") as work:
        out = Path(work) / "kernel.so"
        command = [compiler, *flags, "-o", str(out), str(SOURCES / "step.cpp")]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, cwd=work, env=os.environ | {"TMPDIR": work}
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise BuildError(f"{compiler} did not finish: {e}") from None
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
            raise BuildError(f"{compiler} failed: {said}")
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(out, fresh)
        os.replace(fresh, target)


@cache
def _version(compiler: str) -> str:
    try:
        return subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as e:
        raise BuildError(f"{compiler} does not run: {e}") from None


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    told = ("flags", "Features", "model name", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(told)))
