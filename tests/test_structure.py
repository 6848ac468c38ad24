"""The house's plan: ``import poise`` is light, and rooms import only rooms below them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import poise

BASEMENT = (
    *("registry", "cache", "noise", "replicas", "kernels", "spectra", "norms", "layers", "losses", "penalties"),
    *("augmentation", "sampling", "models"),
)
ROOMS = (
    *BASEMENT,
    *("convert", "data", "metrics", "monitor"),
    *("training", "report", "api", "studies", "cli"),
)
HOUSE = Path(poise.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))

ONLY = {  # rooms that may import less of the house than lies below them
    "kernels": set(),
    "spectra": {"kernels"},
    "norms": {"kernels", "registry", "spectra"},
    "layers": {"norms", "replicas"},
    "losses": {"registry"},
    "penalties": {"norms", "registry", "replicas"},
    "augmentation": {"noise", "registry"},
    "monitor": {"noise", "norms", "spectra"},
    "report": set(),
}
TORCH_ONLY = (*BASEMENT, "monitor")


def room_of(path: Path) -> str:
    """The room a file belongs to; "" for the front hall, ``poise/__init__.py``."""
    first = path.relative_to(HOUSE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(path: Path) -> Iterator[str]:
    """Full dotted names of all that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    """Rooms of the house; ``poise.__version__`` is the front hall's."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("poise.")} - {"__version__"}


def packages_imported(path: Path) -> set[str]:
    names = {name.split(".")[0] for name in imports(path)}
    return names - {"poise", "__future__"} - sys.stdlib_module_names


def name_of(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def test_every_file_is_in_a_room_of_the_plan() -> None:
    assert {room_of(path) for path in FILES} == {"", *ROOMS}


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path)], ids=name_of)
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room = room_of(path)
    allowed = ONLY.get(room, set(ROOMS[: ROOMS.index(room)])) | {room}
    assert rooms_imported(path) <= allowed


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) in TORCH_ONLY], ids=name_of)
def test_rooms_for_anybodys_program_need_torch_alone(path: Path) -> None:
    assert packages_imported(path) <= {"torch"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_says_what_lives_in_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


NEWCOMERS = """
import sys, torch
before = set(sys.modules)
import poise
poise.normalize, poise.denormalize, poise.Monitor
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""


def test_import_poise_loads_nothing_that_torch_has_not_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", NEWCOMERS], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - sys.stdlib_module_names == {"poise"}


def test_the_front_door_offers_what_it_names() -> None:
    assert [name for name in poise.__all__ if not callable(getattr(poise, name))] == []
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = poise.trian


def test_rooms_are_opened_on_use() -> None:
    rooms = "augmentation, convert, data, layers, losses, metrics, models, penalties, sampling, studies, training"
    code = "import poise\n" + "\n".join(f"assert poise.{room}.__name__ == 'poise.{room}'" for room in rooms.split(", "))
    subprocess.run([sys.executable, "-c", code], check=True)
