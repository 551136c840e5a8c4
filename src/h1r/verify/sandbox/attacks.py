"""The public attack set: programs that try to get out, and what the host must look like afterwards.

Each prints LEAK when it got where it should not; some are judged by what the host sees. `h1r doctor --sandbox` shows
`matrix()`; `probe` runs the same set before a backend is used. Victims are only ever processes and files of our own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from h1r.errors import SandboxError
from h1r.verify.sandbox.session import LEVELS, Limits, Session

LIMITS = Limits(timeout_s=4, memory_mb=256, output_mb=1, processes=16, disk_mb=16)


class Target(NamedTuple):
    """What attacks aim at: listeners, a secret file, a folder, a process, all ours."""

    tcp: int
    udp: int
    abstract: str
    canary: str
    secret: str
    folder: str
    victim: int
    token: str


TRY = "try:\n    {0}\nexcept BaseException as e: print('blocked', type(e).__name__)\n"
ATTACKS: dict[str, str] = {
    "tcp to the host": "import socket\n"
    + TRY.format("s=socket.create_connection(('127.0.0.1',{tcp}),1); s.sendall(b'{token}'); print('LEAK')"),
    "udp to the host": "import socket\n"
    + TRY.format("s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.sendto(b'{token}',('127.0.0.1',{udp})); print('sent')"),
    "abstract unix socket": "import socket\n"
    + TRY.format("s=socket.socket(socket.AF_UNIX); s.connect('\\0{abstract}'); print('LEAK')"),
    "read a host file": TRY.format("print('LEAK' if '{secret}' in open('{canary}').read() else 'other')"),
    "read through /proc/1/root": TRY.format("print('LEAK' if '{secret}' in open('/proc/1/root{canary}').read() else 'other')"),
    "write into a host folder": TRY.format("open('{folder}/escaped','w').write('x'); print('written')"),
    "write /usr": TRY.format("open('/usr/h1r-escaped','w').write('x'); print('LEAK')"),
    "read environments of others": "import os\n"
    "for p in os.listdir('/proc') if os.path.isdir('/proc') and os.access('/proc', os.R_OK) else []:\n"
    "    try:\n        if '{token}' in open('/proc/'+p+'/environ','rb').read().decode('latin1'): print('LEAK')\n"
    "    except BaseException: pass\n",
    "kill a host process": "import os\nfor p in ({victim}, -1):\n    try: os.kill(p, 9)\n    except BaseException: pass\n",
    "see host processes": "import os\nprint('LEAK' if os.path.exists('/proc/{victim}/comm') else 'blocked')\n",
    "leave a survivor": "import os, time\nif os.fork()==0:\n    os.setsid()\n    if os.fork()==0:\n"
    "        open('/proc/self/comm','w').write('{token}') if os.access('/proc/self/comm', os.W_OK) else None\n"
    "        import ctypes; ctypes.CDLL(None).prctl(15, b'{token}', 0, 0, 0)\n"
    "        time.sleep(30)\n    os._exit(0)\ntime.sleep(0.1)\n",
    "fork bomb": "import os, time\nn=0\ntry:\n    for _ in range(200):\n        if os.fork()==0: time.sleep(3); os._exit(0)\n"
    "        n+=1\n"
    "except OSError: pass\nos.write(1, b'LEAK' if n>100 else b'blocked %d' % n)\nos._exit(0)\n",
    "4 GiB of memory": TRY.format("b=bytearray(4<<30); print('LEAK')"),
    "1 GiB on disk": "n=0\ntry:\n    for i in range(64):\n        with open('f%d'%i,'wb') as f:\n"
    "            f.write(bytes(16<<20)); n+=16\nexcept BaseException as e: print(type(e).__name__)\n"
    "print('LEAK' if n>512 else 'blocked', n)\n",
    "new user namespace": "import ctypes\nr=ctypes.CDLL(None).unshare(0x10000000)\nprint('LEAK' if r==0 else 'blocked')\n",
    "mount": "import ctypes\nr=ctypes.CDLL(None).mount(b'tmpfs',b'.',b'tmpfs',0,None)\nprint('LEAK' if r==0 else 'blocked')\n",
    "ptrace the parent": "import ctypes, os\nr=ctypes.CDLL(None).ptrace(16, os.getppid() or 1, None, None)\n"
    "print('LEAK' if r==0 else 'blocked')\n",
    "become root": "import os\n" + TRY.format("os.setuid(0); print('LEAK' if os.access('/root', os.W_OK) else 'harmless')"),
}  # fmt: skip
ALLOWED_REDUCED = ("see host processes", "1 GiB on disk", "udp to the host")


@contextmanager
def target() -> Iterator[tuple[Target, dict[str, threading.Event]]]:
    """Listeners, files and a victim of our own for the time of the block; events that fire when a listener is reached."""
    token, secret = "h1r" + secrets.token_hex(5), secrets.token_hex(8)
    reached = {"tcp": threading.Event(), "udp": threading.Event(), "abstract": threading.Event()}
    folder = tempfile.mkdtemp(prefix="h1r-target-")
    os.chmod(folder, 0o777)
    canary = Path(folder, "canary")
    canary.write_text(secret)
    canary.chmod(0o644)
    tcp, udp, unix = (
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
    )
    udp.bind(("127.0.0.1", 0))
    unix.bind(f"\0{token}")
    unix.listen()
    victim = subprocess.Popen(
        [shutil.which("sleep") or "sleep", "120"], env={"H1R_CANARY": token}, stdin=subprocess.DEVNULL
    )

    def listen(name: str, listener: socket.socket) -> None:
        with suppress(OSError):
            listener.accept() if name != "udp" else listener.recv(64)
            reached[name].set()

    for name, listener in (("tcp", tcp), ("udp", udp), ("abstract", unix)):
        threading.Thread(target=listen, args=(name, listener), daemon=True).start()
    try:
        aim = Target(tcp.getsockname()[1], udp.getsockname()[1], token, str(canary), secret, folder, victim.pid, token)
        yield aim, reached
    finally:
        for listener in (tcp, udp, unix):
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        victim.kill()
        victim.wait()
        shutil.rmtree(folder, ignore_errors=True)


def survivors(token: str) -> list[int]:
    """Host processes that carry the token as their name."""
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and token[:15] in Path("/proc", name, "comm").read_text():
                found.append(int(name))
    return found


def attempt(session: Session, name: str, aim: Target, reached: dict[str, threading.Event]) -> str:
    """ "blocked", or what got out."""
    code = ATTACKS[name]
    for field, value in aim._asdict().items():
        code = code.replace("{" + field + "}", str(value))
    session.load({"language": "python", "code": code}, 5)
    result = session.test({"mode": "stdin", "stdin": ""}, LIMITS)
    if "LEAK" in result.out:
        return "LEAK"
    if name == "leave a survivor":
        time.sleep(0.05)
        if pids := survivors(aim.token):
            for pid in pids:
                with suppress(OSError):
                    os.kill(pid, 9)
            return "LEAK: a process survived"
    if name == "kill a host process" and not _alive(aim.victim):
        return "LEAK: a host process was killed"
    if name == "write into a host folder" and Path(aim.folder, "escaped").exists():
        return "LEAK: a file appeared"
    for kind in ("tcp", "udp", "abstract"):
        if name.startswith(kind) and reached[kind].wait(0.05):
            return "LEAK: the listener was reached"
    return "blocked"


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def campaign(backend: str, names: Sequence[str] = tuple(ATTACKS)) -> dict[str, str]:
    """Every attack against one backend: {threat: "blocked" or "LEAK..."}. Raises SandboxError when it does not start."""
    out: dict[str, str] = {}
    session = Session(backend, slot=15)
    try:
        with target() as (aim, reached):
            for name in names:
                if not session.alive:
                    session = Session(backend, slot=15)
                try:
                    out[name] = attempt(session, name, aim, reached)
                except SandboxError as e:
                    out[name] = f"LEAK: it broke the sandbox ({e})"
    finally:
        session.close()
    return out


def matrix(backends: Sequence[str] = ("bwrap", "native", "landlock")) -> dict[str, dict[str, str]]:
    """{threat: {backend: "blocked" | "LEAK..." | "unavailable: why"}}, for printing. "none" is never attacked."""
    columns: dict[str, dict[str, str]] = {}
    for backend in backends:
        try:
            columns[backend] = campaign(backend)
        except SandboxError as e:
            columns[backend] = dict.fromkeys(ATTACKS, f"unavailable: {e}")
    return {threat: {b: columns[b][threat] for b in columns} for threat in ATTACKS}


def offered() -> list[str]:
    """Backends of this machine that the matrix shows unasked; docker and podman need an image, so they are named."""
    return ["bwrap", "native", "landlock", *(["runsc"] if shutil.which("runsc") else [])]


def machine() -> dict[str, str]:
    """What the matrix was measured on."""
    from h1r.verify.sandbox.inside import jail

    user = "root" if os.geteuid() == 0 else "ordinary user"
    return {"kernel": os.uname().release, "landlock": str(jail.landlock_abi()), "user": user,
            "python": sys.version.split()[0],
            "bwrap": shutil.which("bwrap") or "not installed",
            "levels": ", ".join(f"{b}={v}" for b, v in LEVELS.items())}  # fmt: skip
