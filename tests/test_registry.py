"""Choosing by name: what is built, and what an unknown name or option is told."""

import pytest

from poise.registry import Builders, Registry, nearest


def cake(flour: int, sugar: int = 2, *, filling: str = "jam") -> tuple[int, int, str]:
    """A cake.

    More about it.
    """
    return flour, sugar, filling


def bread(flour):
    return flour


BAKERY = Builders("recipe", {"cake": cake, "bread": bread})


@pytest.mark.parametrize(
    ("given", "known", "told"),
    [
        ("bsn2", ["sn", "bsn", "none"], "did you mean 'bsn'?"),
        ("spectral", ["sn", "bsn"], "known: sn, bsn"),
        ("cak", {"cake": 1, "bread": 2}, "did you mean 'cake'?"),
        ("scal", (name for name in ["scale", "eps"]), "did you mean 'scale'?"),
        ("zzz", [], "known: none"),
    ],
)
def test_nearest_names_one_close_name_or_lists_all(given, known, told):
    assert nearest(given, known) == told


def test_a_registry_is_a_dictionary_that_explains_what_it_lacks():
    registry = Registry("loss", {"hinge": 1, "wasserstein": 2})
    assert (registry["hinge"], list(registry), "hing" in registry) == (1, ["hinge", "wasserstein"], False)
    with pytest.raises(ValueError, match=r"^unknown loss 'hing'; did you mean 'hinge'\?$"):
        registry["hing"]
    with pytest.raises(ValueError, match=r"^unknown loss '3'; known: hinge, wasserstein$"):
        registry["3"]


def test_options_are_the_parameters_with_defaults():
    options = BAKERY.options("cake")
    assert list(options) == ["sugar", "filling"]
    assert (options["sugar"].default, options["filling"].annotation) == (2, str)
    assert BAKERY.options("bread") == {}


def test_summary_is_the_first_line_of_the_docstring():
    assert (BAKERY.summary("cake"), BAKERY.summary("bread")) == ("A cake.", "")


def test_build_passes_arguments_and_options_on():
    assert BAKERY.build("cake", 1, filling="cream") == (1, 2, "cream")


@pytest.mark.parametrize("call", [BAKERY.check, lambda name, options: BAKERY.build(name, 1, **options)])
@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("cakes", {}, r"^unknown recipe 'cakes'; did you mean 'cake'\?$"),
        ("cake", {"suger": 1}, r"^recipe 'cake' has no option 'suger'; did you mean 'sugar'\?$"),
        ("cake", {"sugar": 1, "xyz": 1}, "^recipe 'cake' has no option 'xyz'; known: sugar, filling$"),
        ("cake", {"flour": 1}, "^recipe 'cake' has no option 'flour'"),
        ("bread", {"sugar": 1}, "^recipe 'bread' has no option 'sugar'; known: none$"),
    ],
)
def test_unknown_names_and_options_are_refused(call, name, options, told):
    with pytest.raises(ValueError, match=told):
        call(name, options)


def test_check_accepts_known_options():
    BAKERY.check("cake", ["sugar", "filling"])
    BAKERY.check("bread", [])
