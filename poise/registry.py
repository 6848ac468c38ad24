"""Things chosen by name, with options: models, sources, norms, losses. One lookup, one wording of its errors."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def nearest(given: str, known: Iterable[str]) -> str:
    """«did you mean 'x'?» where a known name is near, else the list of them."""
    known = list(known)
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"


class Registry(dict[str, T], Generic[T]):
    """A dictionary that says what it holds when asked for a name it lacks (ValueError).

    Args:
        kind: what its entries are, for the message: "model", "norm" …
        entries: name → thing.
    """

    def __init__(self, kind: str, entries: dict[str, T]) -> None:
        super().__init__(entries)
        self.kind = kind

    def __missing__(self, name: str) -> T:
        raise ValueError(f"unknown {self.kind} {name!r}; {nearest(str(name), self)}")


class Builders(Registry[Callable[..., T]], Generic[T]):
    """A registry of callables, built by name with options that are checked against their signatures."""

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The options the entry takes, by name, with their annotations and defaults."""
        return dict(_options(self[name]))

    def summary(self, name: str) -> str:
        """First line of the entry's docstring."""
        return (inspect.getdoc(self[name]) or "").partition("\n")[0]

    def check(self, name: str, options: Iterable[str]) -> None:
        """Raise ValueError for an unknown name or option, naming the nearest known one."""
        known = self.options(name)
        for option in options:
            if option not in known:
                raise ValueError(f"{self.kind} {name!r} has no option {option!r}; {nearest(option, known)}")

    def build(self, name: str, *arguments: Any, **options: Any) -> T:
        """Call the entry after ``check``."""
        self.check(name, options)
        return self[name](*arguments, **options)


@lru_cache(256)
def _options(entry: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Parameters with a default, by name; annotations are strings to be evaluated, which takes a while."""
    parameters = inspect.signature(entry, eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.default is not inspect.Parameter.empty}
