"""docs/recipes.md names every field with its default and every shipped recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from poise.training import Recipe, shipped_recipes
from poise.training.sections import Optimizer

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
ROWS = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `")}


@pytest.mark.parametrize("field", [*Recipe.model_fields, *Optimizer.model_fields])
def test_the_page_says_what_a_field_means(field: str) -> None:
    assert field in ROWS, f"docs/recipes.md lacks a row | `{field}` | default | meaning |"
    assert len(ROWS[field].split("|")[3].strip()) > 10


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_page_says_what_a_recipe_is(name: str) -> None:
    assert name in ROWS, f"docs/recipes.md lacks a row | `{name}` | what it is |"


def test_the_page_names_nothing_that_is_not_there() -> None:
    assert ROWS.keys() <= {*Recipe.model_fields, *Optimizer.model_fields, *shipped_recipes()}


@pytest.mark.parametrize(("field", "default"), [("steps", 10_000), ("batch_size", 64), ("lr", 2e-4), ("beta2", 0.999)])
def test_defaults_on_the_page_are_the_recipes(field: str, default: float) -> None:
    known = {**Recipe.model_fields, **Optimizer.model_fields}[field].default
    assert float(ROWS[field].split("|")[2]) == known == default
