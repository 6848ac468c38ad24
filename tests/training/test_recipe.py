"""Recipes: what is right is read and written back the same; what is wrong is named, with what was given and allowed."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data import SOURCES
from poise.models import MODELS
from poise.norms import NORMS
from poise.registry import Builders
from poise.sampling import LATENTS
from poise.training import Recipe, RecipeError, shipped_recipes
from poise.training.recipe import fields
from poise.training.run import build

REGISTRIES: dict[str, Builders[Any]] = {"data": SOURCES, "model": MODELS, "d_norm": NORMS, "latent": LATENTS}
FIELDS = {name: default for name, default, _ in fields()}


def effective(recipe: Recipe) -> dict[str, Any]:
    """Every value the recipe stands for, by dotted name, an option it leaves out at its entry's default."""
    found: dict[str, Any] = {}
    for name, value in recipe.model_dump(exclude={"versions"}).items():
        if name in REGISTRIES:
            options = REGISTRIES[name].options(value["name"])
            found |= {f"{name}.{option}": parameter.default for option, parameter in options.items()}
        found |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_survive_the_way_through_yaml(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_begin_by_saying_what_they_are(name: str) -> None:
    assert shipped_recipes()[name].read_text(encoding="utf-8").startswith("# ")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.text("abc é#:-'\"", min_size=1),
            "steps": st.integers(1, 10**6),
            "seed": st.integers(0, 2**63 - 1),
            "ema_half_life": st.floats(1e-6, 1e12),
            "lr_schedule": st.sampled_from(["constant", "linear", "cosine"]),
            "g_optimizer": st.fixed_dictionaries({"lr": st.floats(1e-12, 1e6), "beta1": st.floats(0, 0.999)}),
            "d_norm": st.fixed_dictionaries({"name": st.just("ssn"), "scale": st.floats(1e-6, 1e6)}),
            "versions": st.dictionaries(st.text("abc"), st.text("abc1.")),
        },
    )
)
@settings(deadline=None)
def test_any_recipe_survives_the_way_through_yaml(values: dict[str, Any]) -> None:
    recipe = Recipe.parse(values)
    assert Recipe.parse(yaml.safe_load(recipe.to_yaml())) == recipe


def test_a_recipe_read_again_is_not_what_became_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("metrics: [fid]\npenalties: [{name: r1, gamma: 1.0}]\n", encoding="utf-8")
    first = Recipe.load(path)
    first.metrics.append("is")
    first.penalties[0].options["gamma"] = 2.0
    assert Recipe.load(path).metrics == ["fid"]
    assert Recipe.load(path).penalties[0].options == {"gamma": 1.0}
    path.write_text("metrics: [kid]\n", encoding="utf-8")
    assert Recipe.load(path).metrics == ["kid"]


def test_a_recipe_built_from_an_empty_mapping_can_be_trained() -> None:
    generator, _, data = build(Recipe.parse({}, {"model.width": "2"}))
    assert generator.resolution == data.resolution


def test_fields_lists_everything_that_can_be_set() -> None:
    assert FIELDS.keys() == effective(Recipe.parse({})).keys()
    assert all(text for _, _, text in fields())


def test_fields_gives_the_defaults_of_an_empty_recipe() -> None:
    assert effective(Recipe.parse({})) == FIELDS


@pytest.mark.parametrize("field", FIELDS)
def test_any_field_can_be_set_and_setting_its_default_changes_nothing(field: str) -> None:
    assert effective(Recipe.parse({}, {field: FIELDS[field]})) == effective(Recipe.parse({}))


@pytest.mark.parametrize("field", FIELDS)
def test_a_command_lines_text_is_read_as_the_fields_type(field: str) -> None:
    assert effective(Recipe.parse({}, {field: str(FIELDS[field])}))[field] == FIELDS[field]


@pytest.mark.parametrize(
    ("overrides", "field", "expected"),
    [
        ({"model.width": "32"}, "model.width", 32),
        ({"d_norm.scale": "2"}, "d_norm.scale", 2.0),
        ({"g_optimizer.lr": "1e-3"}, "g_optimizer.lr", 1e-3),
        ({"d_optimizer.beta1": 0}, "d_optimizer.beta1", 0.0),
        ({"d_optimizer.name": "RMSprop", "d_optimizer.options": "{alpha: 0.9}"}, "d_optimizer.options", {"alpha": 0.9}),
        ({"steps": "7"}, "steps", 7),
        ({"loss": "hinge"}, "loss", "hinge"),
        ({"d_norm": "sn"}, "d_norm.name", "sn"),
        ({"d_norm.name": "ssn", "d_norm.scale": 3}, "d_norm.scale", 3.0),
        ({"d_norm.scale": 3, "d_norm.name": "ssn"}, "d_norm.scale", 3.0),
    ],
)
def test_overrides_reach_their_field(overrides: dict[str, Any], field: str, expected: Any) -> None:
    found = effective(Recipe.load("stacked-digits", overrides))[field]
    assert found == expected
    assert type(found) is type(expected)


def test_overrides_leave_other_fields_and_the_callers_values_alone() -> None:
    values = {"d_norm": {"name": "bssn", "scale": 2.0}, "g_optimizer": {"lr": 0.1}}
    recipe = Recipe.parse(values, {"d_norm.scale": 3, "g_optimizer.beta1": 0.1, "d_optimizer.lr": 0.5})
    assert (recipe.g_optimizer.lr, recipe.g_optimizer.beta1, recipe.d_optimizer.lr) == (0.1, 0.1, 0.5)
    assert values == {"d_norm": {"name": "bssn", "scale": 2.0}, "g_optimizer": {"lr": 0.1}}


@pytest.mark.parametrize("field", ["d_norm", "d_norm.name"])
def test_another_choice_drops_the_options_of_the_one_before(field: str) -> None:
    values = {"d_norm": {"name": "bssn", "scale": 2.0}}
    assert Recipe.parse(values, {field: "sn"}).d_norm.options == {}
    assert Recipe.parse(values, {field: "bssn"}).d_norm.options == {"scale": 2.0}


WRONG: dict[str, tuple[dict[Any, Any], dict[str, Any], list[str]]] = {
    "unknown field": ({"stepz": 3}, {}, ["unknown field 'stepz'", "did you mean 'steps'"]),
    "unknown field, nothing near": ({"qqq": 3}, {}, ["unknown field 'qqq'", "known:", "batch_size"]),
    "unknown nested field": ({"g_optimizer": {"lrr": 1}}, {}, ["'g_optimizer.lrr'", "did you mean 'g_optimizer.lr'"]),
    "unknown field on the command line": ({}, {"batchsize": 3}, ["'batchsize'", "did you mean 'batch_size'"]),
    "unknown nested field there": ({}, {"g_optimiser.lr": 1}, ["'g_optimiser.lr'", "did you mean 'g_optimizer.lr'"]),
    "a field inside a number": ({}, {"steps.x": 1}, ["unknown field 'steps.x'", "did you mean 'steps'"]),
    "a key that is no text": ({1: 2}, {}, ["1", "should be strings"]),
    "no integer": ({"steps": "many"}, {}, ["steps: given 'many'", "valid integer"]),
    "a fraction": ({"steps": 1.5}, {}, ["steps: given 1.5", "integer"]),
    "nothing": ({"steps": None}, {}, ["steps: given None", "integer"]),
    "a list": ({}, {"name": [1]}, ["name: given [1]", "string"]),
    "zero steps": ({}, {"steps": "0"}, ["steps: given '0'", "greater than 0"]),
    "negative batch": ({"batch_size": -1}, {}, ["batch_size: given -1", "greater than 0"]),
    "negative seed": ({}, {"seed": -1}, ["seed: given -1", "greater than or equal to 0"]),
    "too large a seed": ({}, {"seed": 2**63}, ["seed: given", "less than 9223372036854775808"]),
    "zero rate": ({}, {"g_optimizer.lr": 0}, ["g_optimizer.lr: given 0", "greater than 0"]),
    "infinite rate": ({}, {"g_optimizer.lr": "inf"}, ["g_optimizer.lr: given 'inf'", "finite"]),
    "beta of 1": ({}, {"d_optimizer.beta2": 1}, ["d_optimizer.beta2: given 1", "less than 1"]),
    "one sample": ({}, {"evaluation_samples": 1}, ["evaluation_samples: given 1", "greater than or equal to 2"]),
    "unknown schedule": ({}, {"lr_schedule": "cosin"}, ["given 'cosin'", "'constant', 'linear' or 'cosine'"]),
    "unknown precision": ({}, {"precision": "fp8"}, ["given 'fp8'", "'auto', 'fp32' or 'bf16'"]),
    "unknown model": ({}, {"model.name": "sngan-cmn"}, ["model: unknown model 'sngan-cmn'", "mean 'sngan-cnn'"]),
    "unknown norm": ({}, {"d_norm": "bsssn"}, ["d_norm: unknown norm 'bsssn'", "mean 'bssn'"]),
    "unknown latents": ({"latent": "normall"}, {}, ["latent: unknown latent 'normall'", "did you mean 'normal'"]),
    "option of latents": ({"latent": {"name": "uniform", "hi": 1}}, {}, ["latent 'uniform' has no option 'hi'"]),
    "unknown loss": ({"loss": "hinges"}, {}, ["loss: unknown loss 'hinges'", "mean 'hinge'"]),
    "unknown data": ({"data": {"name": "cifar"}}, {}, ["data: unknown data 'cifar'", "did you mean 'cifar10'"]),
    "unknown optimizer": (
        {"g_optimizer": {"name": "RMSProp"}},
        {},
        ["g_optimizer: unknown optimizer 'RMSProp'; did you mean 'RMSprop'"],
    ),
    "unknown option of an optimizer": (
        {"d_optimizer": {"name": "SGD", "options": {"momentun": 0.9}}},
        {},
        ["d_optimizer: SGD has no option 'momentun'; known: momentum, "],
    ),
    "parts that do not come out even": ({"batch_size": 10}, {"accumulate": 4}, ["batch_size is 10; accumulate=4"]),
    "unknown option": ({}, {"model.widht": 3}, ["model 'sngan-cnn' has no option 'widht'", "mean 'width'"]),
    "option of another norm": (
        {"d_norm": {"name": "sn", "scale": 2}},
        {},
        ["d_norm: norm 'sn' has no option 'scale'"],
    ),
    "option of a wrong type": ({}, {"model.width": "wide"}, ["model.width: given 'wide'", "valid integer"]),
    "a choice without a name": ({"d_norm": {"scale": 2}}, {}, ["d_norm.name", "field required"]),
    "a choice that is a number": ({"model": 3}, {}, ["model: given 3", "dictionary"]),
    "that with an option over it": ({"model": 3}, {"model.width": 3}, ["model: given 3"]),
    "a group that is a number": ({"g_optimizer": 3}, {}, ["g_optimizer: given 3", "dictionary"]),
    "that with a field over it": ({"g_optimizer": 3}, {"g_optimizer.lr": 1}, ["g_optimizer", "given 3"]),
    "a group set as one": ({}, {"g_optimizer": 3}, ["g_optimizer is a group", "lr, beta1, beta2"]),
    "two at once": ({"steps": 0, "loss": 3}, {}, ["steps: given 0", "loss: given 3"]),
}


@pytest.mark.parametrize(("values", "overrides", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_in_one_line(values: dict[str, Any], overrides: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(values, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in said if part not in message] == [], message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: [1,", "is not valid YAML"),
        ("a: b: c", "is not valid YAML"),
        ("!!python/object:os.system x", "is not valid YAML"),
        ("- steps", "holds list; a recipe is a mapping"),
        ("just text", "holds str; a recipe is a mapping"),
        ("", "holds NoneType; a recipe is a mapping"),
        ("steps: 3\nstepz: 4", "unknown field 'stepz'"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=said) as caught:
        Recipe.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("staked-digits", "unknown recipe 'staked-digits'; did you mean 'stacked-digits'?"),
        ("zzz", "unknown recipe 'zzz'; known: .*stacked-digits"),
        ("nowhere/to/be/found.yaml", r"recipe file nowhere/to/be/found\.yaml cannot be read: .*No such file"),
        (".", r"recipe file \. cannot be read"),
    ],
)
def test_a_recipe_that_is_not_there_is_named(source: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe.load(source)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.load(tmp_path / "binary.yaml")


def test_every_option_of_every_entry_is_typed_so_that_text_can_be_read_as_it() -> None:
    for registry in REGISTRIES.values():
        for name in registry:
            for parameter in registry.options(name).values():
                assert parameter.annotation is not inspect.Parameter.empty, f"{registry.kind} {name}: {parameter}"


def test_a_choice_without_options_may_be_its_bare_name():
    plain = Recipe.parse({"d_norm": "sn", "model": "sngan-cnn"}, {"model.width": "3"})
    assert plain.d_norm == Recipe.parse({"d_norm": {"name": "sn"}}).d_norm
    assert plain.model.options == {"width": 3}
