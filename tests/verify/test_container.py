"""Backends an operator sets up: what the command line takes away, and gVisor where it is installed."""

import json
import shutil

import pytest

from h1r.errors import SandboxError
from h1r.verify import sandbox as rooms
from h1r.verify.sandbox import Limits, Session, attacks, container, probe


def test_the_engine_is_asked_for_every_wall(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    words, folder = container.command("podman:ours:1", "python", {"/usr": "/usr"}, json.dumps({"nested": False}))
    assert folder == "" and words[0] == "podman" and words[words.index("python3") - 1] == "ours:1"
    for wall in ("--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=65534"):
        assert wall in words[: words.index("ours:1")]
    assert any(w.startswith("--memory=") for w in words) and any(w.startswith("--pids-limit=") for w in words)
    assert container.command("docker", "python", {}, "{}")[0][-8] == container.IMAGE


def test_an_engine_that_is_not_there(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match="no such program"):
        Session("docker:x")


@pytest.mark.skipif(shutil.which("runsc") is None, reason="runsc is not installed")
@pytest.mark.slow
def test_gvisor_withstands_the_attacks_and_runs_programs():
    try:
        found = attacks.campaign("runsc")
    except SandboxError as e:
        pytest.skip(f"runsc does not start here: {e}")
    assert {k: v for k, v in found.items() if v != "blocked"} == {}
    session = Session("runsc")
    session.load({"language": "python", "code": "def f(a): return a + 1"}, 5)
    assert session.test({"mode": "call", "fn": "f", "args": [4]}, Limits()).value == 5
    assert session.test({"mode": "assert", "fn": "f", "text": "assert f(1) == 2"}, Limits()).status == "ok"
    session.close()


def test_a_named_sandbox_that_does_not_hold_is_told_with_its_own_cause(monkeypatch):
    monkeypatch.setattr(probe, "trouble", lambda name: f"sandbox {name} broke: no daemon")
    with pytest.raises(SandboxError, match=r"docker:x: sandbox docker:x broke: no daemon; mend that") as caught:
        rooms.open("docker:x")
    assert "bubblewrap" not in str(caught.value)
