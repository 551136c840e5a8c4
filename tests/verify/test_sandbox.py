# ruff: noqa: E501  (programs written on one line)
"""The sandbox ladder: what each level keeps in, how a session dies and is replaced, when we refuse."""

import os
import shutil
import time

import pytest

from h1r.errors import SandboxError
from h1r.verify import sandbox
from h1r.verify.sandbox import Limits, Sandbox, Session, attacks, probe
from h1r.verify.sandbox import session as rooms

LIMITS = Limits(timeout_s=5)


def usable(backend):
    try:
        Session(backend, slot=14).close()
    except SandboxError as e:
        return str(e)
    return ""


BACKENDS = [
    pytest.param(b, marks=pytest.mark.skipif(bool(why := usable(b)), reason=f"{b} does not start here: {why}"))
    for b in ("bwrap", "native", "landlock")
]


DENIED = ("not permitted", "permission denied", "no such program", "no such file", "no permissions", "operation not")
"""What a machine says that forbids or lacks a wall; anything else is our fault, and no reason to skip."""


@pytest.mark.parametrize("backend", ["bwrap", "native"])
def test_a_backend_is_missing_only_where_the_machine_forbids_it(backend):
    why = usable(backend).lower()
    assert not why or any(said in why for said in DENIED), why


@pytest.mark.parametrize("backend", ["bwrap", "native"])
def test_an_environment_below_tmp_is_shown_all_the_same(backend, monkeypatch, tmp_path):
    if why := usable(backend):
        pytest.skip(f"{backend} does not start here: {why}")
    site = tmp_path / "lib" / "site-packages"
    (site / "mpmath").mkdir(parents=True)
    (site / "mpmath" / "__init__.py").write_text("where = 'below tmp'\n")
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    monkeypatch.setattr(rooms.sysconfig, "get_path", lambda name: str(site))
    session = Session(backend, slot=13)
    try:
        session.load({"language": "python", "code": "import mpmath; print(mpmath.where)"}, 5)
        assert session.test({"mode": "stdin", "stdin": ""}, LIMITS).out.strip() == "below tmp"
    finally:
        session.close()


def test_an_interpreter_where_a_sandbox_has_its_own_folder_gives_way_to_the_systems(monkeypatch):
    monkeypatch.setattr(rooms.sys, "_base_executable", "/tmp/python/bin/python3", raising=False)
    monkeypatch.setattr(rooms.sys, "base_prefix", "/tmp/python")
    if os.path.exists("/usr/bin/python3"):
        assert rooms.interpreter() == ("/usr/bin/python3", ())
    monkeypatch.setattr(rooms.os.path, "exists", lambda path: False)
    with pytest.raises(SandboxError, match="outside"):
        rooms.interpreter()


@pytest.fixture(params=BACKENDS)
def session(request):
    s = Session(request.param, slot=13)
    yield s
    s.close()


def run(session, code, stdin="", limits=LIMITS):
    session.load({"language": "python", "code": code}, 5)
    return session.test({"mode": "stdin", "stdin": stdin}, limits)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_attack_is_blocked(backend):
    spared = attacks.ALLOWED_REDUCED if backend == "landlock" else ()
    assert {k: v for k, v in attacks.campaign(backend).items() if v != "blocked" and k not in spared} == {}


def test_the_attacks_do_see_an_open_door():
    harmless = ["tcp to the host", "udp to the host", "read a host file", "see host processes"]
    assert all(v.startswith("LEAK") for v in attacks.campaign("none", harmless).values())


def test_a_program_runs_with_its_streams(session):
    result = run(
        session, "import sys\nfor line in sys.stdin: print(line.strip()[::-1])\nsys.stderr.write('e')", "ab\ncd\n"
    )
    assert (result.status, result.out, result.err, result.code) == ("ok", "ba\ndc\n", "e", 0)


def test_each_test_has_a_fresh_folder_and_no_environment(session):
    code = "import os\nprint(sorted(os.listdir('.')), 'HOME' in os.environ, 'SECRET' in os.environ)\nopen('left','w').write('x')\nopen(os.environ['TMPDIR']+'/l2','w') if os.path.isdir(os.environ['TMPDIR']) else 0"
    os.environ["SECRET"] = "1"
    try:
        assert run(session, code).out == run(session, code).out == "[] True False\n"
    finally:
        del os.environ["SECRET"]


@pytest.mark.parametrize(
    ("code", "statuses"),
    [
        ("while True: pass", {"timeout"}),
        ("import time\ntime.sleep(60)", {"timeout"}),
        ("import signal,time\nsignal.signal(signal.SIGTERM,signal.SIG_IGN)\ntime.sleep(60)", {"timeout"}),
        ("b = bytearray(1<<33)", {"memory"}),
        ("import sys\nwhile True: sys.stdout.write('x'*65536)", {"output_limit"}),
        ("import os\nos.kill(os.getpid(), 11)", {"runtime_error"}),
        ("1/0", {"runtime_error"}),
        ("import sys\nsys.exit(3)", {"runtime_error"}),
        ("import os\nos._exit(0)", {"ok"}),
        ("def f(n): return f(n+1)\nf(0)", {"runtime_error"}),
        ("import os\nfor fd in range(3, 300):\n    try: os.close(fd)\n    except OSError: pass\nprint(1)", {"ok"}),
        ("f=open('big','wb')\nwhile True: f.write(b'x'*(1<<20))", {"runtime_error", "disk_limit"}),
    ],
)
def test_statuses(session, code, statuses):
    limits = Limits(timeout_s=1.0, memory_mb=256, output_mb=1, disk_mb=16)
    start = time.monotonic()
    assert run(session, code, limits=limits).status in statuses
    assert time.monotonic() - start < 6
    assert run(session, "print(2)").out == "2\n"


def test_a_broken_session_is_replaced():
    backend = next((b for b in ("native", "bwrap", "landlock") if not usable(b)), None)
    if backend is None:
        pytest.skip("no sandbox here")
    box = Sandbox(backend, size=1)
    with box.session() as first:
        first.process.kill()
        first.process.wait()
        with pytest.raises(SandboxError):
            first.request({"op": "hello"}, 5)
    with box.session() as second:
        assert second is not first and run(second, "print(1)").out == "1\n"
    box.close()


def test_names_and_levels(monkeypatch):
    monkeypatch.setattr(probe, "trouble", lambda name: "disabled by this test")
    with pytest.raises(SandboxError, match=r"disabled by this test.*unsafe-no-sandbox"):
        sandbox.open()
    with pytest.raises(SandboxError, match="unsafe"):
        sandbox.open("none")
    assert sandbox.open(unsafe=True).level == "none"
    monkeypatch.setattr(probe, "trouble", lambda name: "" if name == "landlock" else "no")
    assert sandbox.open("landlock").level == "reduced"
    with pytest.raises(SandboxError):
        sandbox.open()


@pytest.mark.skipif(bool(usable("native")), reason="native does not start here")
def test_nothing_is_left_on_the_host():
    before = set(os.listdir("/dev/shm")) | {n for n in os.listdir("/tmp") if n.startswith("h1r-")}
    used = shutil.disk_usage("/tmp").used
    box = Sandbox("native", size=1)
    with box.session() as s:
        run(s, "import os\nfor i in range(200):\n    os.mkdir('a'*50); os.chdir('a'*50)")
        run(
            s,
            "open('/dev/shm/x','wb').write(b'x'*(4<<20))\nopen('/tmp/y','wb').write(b'x'*(4<<20))\nos_ = __import__('os')\nos_.symlink('/etc/passwd','p')",
        )
    box.close()
    assert set(os.listdir("/dev/shm")) | {n for n in os.listdir("/tmp") if n.startswith("h1r-")} <= before | {"x"} - {
        "x"
    }
    assert shutil.disk_usage("/tmp").used - used < 64 << 20
