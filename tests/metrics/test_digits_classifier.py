"""The judge of digits: it judges well, always the same, disturbs nothing, and no cache can break it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from poise.data.digits import StackedDigits
from poise.metrics import MEASURES
from poise.metrics import digits_classifier as room
from poise.metrics.digits_classifier import DigitsClassifier, digits_classifier, train_digits_classifier
from poise.metrics.stacked_digits import judge_stacked_digits


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that takes a moment and learns nothing."""
    monkeypatch.setattr(room, "STEPS", 10)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache; the path of the classifier in it."""
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / f"digits-classifier-v{room.VERSION}-16.safetensors"


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "train_digits_classifier", lambda _: pytest.fail("trained in spite of a cache"))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_names_held_out_digits_rightly() -> None:
    assert digits_classifier().accuracy("test") >= 0.97


def test_is_a_fixed_function() -> None:
    classifier = digits_classifier()
    assert not classifier.training
    assert not any(weight.requires_grad for weight in classifier.parameters())


@pytest.mark.usefixtures("hasty")
def test_training_is_the_same_whatever_the_caller_drew_and_spends_none_of_it() -> None:
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        made.append(train_digits_classifier())
        assert torch.equal(torch.get_rng_state(), before)
    assert same(*made)


@pytest.mark.usefixtures("hasty", "cache")
def test_the_callers_random_state_is_left_alone_with_and_without_a_cache() -> None:
    before = torch.get_rng_state()
    digits_classifier()
    assert torch.equal(torch.get_rng_state(), before), "while it was trained"
    digits_classifier()
    assert torch.equal(torch.get_rng_state(), before), "while it was read"


@pytest.mark.usefixtures("hasty", "cache")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_can_be_trained_where_gradients_are_off(mode: type[torch.no_grad]) -> None:
    """As on the first judgement on a new machine, in the midst of an evaluation."""
    with mode():
        made = digits_classifier()
    assert same(made, train_digits_classifier())


@pytest.mark.usefixtures("hasty", "cache")
def test_the_first_judgement_on_a_machine_works() -> None:
    data = StackedDigits()
    assert judge_stacked_digits(iter([data.batch(0, 5)[0]]), data).values.keys() == MEASURES.keys()


@pytest.mark.usefixtures("hasty")
def test_is_trained_once_and_then_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = digits_classifier()
    forbid_training(monkeypatch)
    assert same(digits_classifier(), trained)
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "of another shape", "of other names"])
def test_a_damaged_cache_is_replaced(damage: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = digits_classifier()
    whole = cache.read_bytes()
    if damage == "of another shape":
        save_file(DigitsClassifier(32).state_dict(), cache)
    elif damage == "of other names":
        save_file({"weight": torch.zeros(3)}, cache)
    else:
        cache.write_bytes({"empty": b"", "garbage": b"?" * 999, "truncated": whole[:-9]}[damage])
    assert same(digits_classifier(), trained)
    forbid_training(monkeypatch)
    assert same(digits_classifier(), trained)


@pytest.mark.usefixtures("hasty")
def test_does_without_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("POISE_CACHE", str(blocked))
    assert same(digits_classifier(), digits_classifier())
    assert blocked.read_text() == "not a folder"


@pytest.mark.usefixtures("hasty")
def test_does_without_a_cache_on_a_full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"the first half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(room, "save_file", full)
    assert same(digits_classifier(), digits_classifier())
    assert not list(cache.parent.iterdir())
