"""A headless Chromium spoken to in the W3C WebDriver protocol, which is JSON over HTTP: chromedriver and the standard library."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

CURE = "no chromium and chromedriver here: apt-get install chromium chromium-driver"
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip
ENTER, ESCAPE, TAB, SHIFT, CONTROL = "\ue007", "\ue00c", "\ue004", "\ue008", "\ue009"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def found() -> tuple[str, str] | None:
    """(chromium, chromedriver), or None."""
    browser = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait(condition: Callable[[], Any], seconds: float = 20, what: str = "") -> Any:
    """The condition's first true value. Raises AssertionError when none comes in time."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {seconds} s in vain: {what}"
        time.sleep(0.05)


class Browser:
    """One session. Close it: a browser outlives its driver otherwise."""

    def __init__(self, profile: Path) -> None:
        programs = found()
        assert programs, CURE
        port = free_port()
        self._root = f"http://127.0.0.1:{port}"
        # what Chromium writes beside its profile (fontconfig's cache, dconf) goes there too
        env = os.environ | {"HOME": str(profile), "XDG_CONFIG_HOME": str(profile), "XDG_CACHE_HOME": str(profile)}
        self._driver = subprocess.Popen([programs[1], f"--port={port}"], stdout=subprocess.DEVNULL, env=env)
        try:
            wait(lambda: self._alive(), what="chromedriver")
            options = {"binary": programs[0], "args": [*FLAGS, f"--user-data-dir={profile}/profile"]}
            asked = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": asked}})
        except BaseException:
            self._driver.kill()
            raise
        self._session = f"/session/{made['sessionId']}"

    def close(self) -> None:
        try:
            self._call("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait(20)

    def open(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script's `return`."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": arguments})

    def click(self, css: str) -> None:
        """As a mouse does: refused by the driver when something lies above it or it is not shown."""
        self._call("POST", f"{self._session}/element/{self._find(css)}/click", {})

    def press(self, *keys: str, held: str = "") -> None:
        """Keys to whatever has the focus; text is several keys."""
        strokes = [k for text in keys for k in text]
        actions = [{"type": "keyDown", "value": held}] if held else []
        for k in strokes:
            actions += [{"type": "keyDown", "value": k}, {"type": "keyUp", "value": k}]
        actions += [{"type": "keyUp", "value": held}] if held else []
        body = {"actions": [{"type": "key", "id": "keys", "actions": actions}]}
        self._call("POST", f"{self._session}/actions", body)

    def devtools(self, command: str, **params: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._call("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": params})

    def console(self) -> list[str]:
        """What the console was told since the last time."""
        return [e["message"] for e in self._call("POST", f"{self._session}/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))

    def _find(self, css: str) -> str:
        found = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": css})
        return str(found[ELEMENT])

    def _alive(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except OSError:
            assert self._driver.poll() is None, "chromedriver ended"
            return False

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as e:
            told = json.load(e)["value"]
            raise AssertionError(f"{path}: {told['error']}: {told['message']}") from None
