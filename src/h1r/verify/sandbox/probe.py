"""Whether a backend holds here: found out by attacking it, not by looking for its program. Once per process."""

from __future__ import annotations

import functools

from h1r.errors import SandboxError
from h1r.verify.sandbox import attacks
from h1r.verify.sandbox.session import LEVELS


@functools.cache
def trouble(backend: str) -> str:
    """Why a backend may not be used here; empty when every attack on it failed."""
    try:
        found = attacks.campaign(backend)
    except SandboxError as e:
        return str(e)
    spared = attacks.ALLOWED_REDUCED if LEVELS[backend.partition(":")[0]] == "reduced" else ()
    leaks = [f"{threat}: {what}" for threat, what in found.items() if what != "blocked" and threat not in spared]
    return "; ".join(leaks)
