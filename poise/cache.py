"""Where poise keeps what it can make again: prepared images, features of references, the digits' classifier."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``POISE_CACHE`` where it is set, else ``poise`` in ``XDG_CACHE_HOME``, else ``~/.cache/poise``."""
    if given := os.environ.get("POISE_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "poise"
