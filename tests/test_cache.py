"""There is one place for what can be made again, and the environment names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from poise.cache import cache_folder


@pytest.mark.parametrize(
    ("poise_cache", "xdg", "expected"),
    [
        ("/a", "/b", "/a"),
        ("~/a", "/b", "{home}/a"),
        ("", "/b", "/b/poise"),
        ("", "", "{home}/.cache/poise"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    poise_cache: str, xdg: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISE_CACHE", poise_cache)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert str(cache_folder()) == expected.format(home=Path.home())
