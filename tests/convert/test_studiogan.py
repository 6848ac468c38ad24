"""Checkpoints of PyTorch-StudioGAN: outputs equal to those of its networks, recorded by make_studiogan_fixtures.py."""

from typing import Any

import pytest
import torch

from poise import convert
from poise.convert import studiogan

OPTIONS: dict[str, dict[str, Any]] = {
    "big generator 32": {"latent_dim": 12, "num_classes": 3, "skip_z": True, "width": 4, "attention": [16]},
    "big generator 64": {"latent_dim": 15, "num_classes": 3, "width": 2, "multiples": [16, 8, 4, 2, 1]},
    "big generator 128": {"latent_dim": 18, "num_classes": 3, "width": 8, "attention": [64]},
    "big generator without labels": {"latent_dim": 12, "num_classes": 0, "skip_z": True, "width": 2},
    "sngan generator 32": {"latent_dim": 7, "num_classes": 3, "shared_embedding": False, "skip_z": False},
    "sngan generator 64": {"latent_dim": 7, "num_classes": 3, "multiples": [16, 8, 4, 2, 1]},
    "sngan generator without labels": {"latent_dim": 7, "num_classes": 0, "skip_z": False},
    "big discriminator 32": {"num_classes": 3, "width": 4, "attention": [16]},
    "big discriminator 128": {"num_classes": 3, "width": 8, "attention": [64]},
    "sngan discriminator 32": {"num_classes": 3, "width": 4, "attention": []},
    "sngan discriminator 64": {"num_classes": 3, "width": 4, "rectified_shortcuts": True},
    "sngan discriminator without labels": {"num_classes": 0, "width": 4},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_outputs_are_the_originals(case, original, answer, tmp_path):
    state, recorded = original("studiogan", case)
    torch.save({"state_dict": state, "optimizer": {"state": {}}, "seed": 1, "aa_p": None}, tmp_path / "model.pth")
    network = convert.load(tmp_path / "model.pth")
    assert answer(network) == pytest.approx(recorded["output"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("case", OPTIONS)
def test_options_are_read_off_the_shapes(case, original):
    found = studiogan.convert(original("studiogan", case)[0])
    assert (found.architecture, found.network) == ("biggan", case.split()[1])
    assert found.norm == (None if case.startswith("sngan generator") else "sn")
    assert {key: found.options[key] for key in OPTIONS[case]} == OPTIONS[case]


def test_the_epsilon_of_its_batch_norms_goes_into_the_variance(original):
    # 1e-4 there, 1e-5 here: σ² + ε is the same.
    for case, theirs, ours in (
        ("big generator 32", "blocks.1.0.bn2.bn", "blocks.1.norm2.norm"),
        ("sngan generator without labels", "blocks.1.0.bn2", "blocks.1.norm2.norm"),
        ("sngan generator 32", "bn4", "norm"),
    ):
        state, _ = original("studiogan", case)
        network = studiogan.convert(state).build()
        variance = network.get_buffer(f"{ours}.running_var").double()
        expected = state[f"{theirs}.running_var"].double() + 1e-4
        torch.testing.assert_close(variance + 1e-5, expected, rtol=0, atol=2e-7)
        assert getattr(network.get_submodule(ours), "eps") == 1e-5  # noqa: B009


@pytest.mark.parametrize(
    ("case", "key", "told"),
    [
        ("big generator 32", "linear0.weight_orig", "^1 missing: linear0.weight, of "),
        ("big generator 32", "linear0.weight_u", r"biggan generator: 1 missing: linear0\.weight_u$"),
        ("big generator 32", "blocks.2.0.sigma", r"1 missing: blocks\.2\.0\.sigma$"),
        ("big generator 32", "bn4.running_var", r"1 missing: bn4\.running_var$"),
        ("sngan generator 32", "blocks.0.0.bn2.bias.weight", r"1 missing: blocks\.0\.0\.bn2\.bias\.weight$"),
        (
            "big discriminator 32",
            "blocks.3.0.conv2d2.bias",
            r"biggan discriminator: 1 missing: blocks\.3\.0\.conv2d2\.bias",
        ),
        ("big discriminator 32", "linear1.weight_v", r"1 missing: linear1\.weight_v$"),
    ],
)
def test_a_missing_key_is_named(case, key, told, original):
    state, _ = original("studiogan", case)
    del state[key]
    assert studiogan.recognise(state)
    with pytest.raises(ValueError, match=told):
        studiogan.convert(state)


def test_heads_that_are_not_ours_are_named(original):
    state, _ = original("studiogan", "sngan discriminator without labels")
    state |= {
        "linear2.weight_orig": torch.zeros(3, 16),
        "linear2.weight_u": torch.zeros(3),
        "linear2.weight_v": torch.zeros(16),
    }
    with pytest.raises(ValueError, match=r"3 extra: linear2\.weight_orig, linear2\.weight_u, linear2\.weight_v$"):
        studiogan.convert(state)


def test_normalized_gains_per_class_are_refused(original):
    state, _ = original("studiogan", "sngan generator 32")
    state["linear0.weight_orig"] = state.pop("linear0.weight")
    with pytest.raises(ValueError, match="gains per class are spectrally normalized, which ours cannot be"):
        studiogan.convert(state)


def test_as_many_classes_as_latents_are_refused(original):
    state, _ = original("studiogan", "sngan generator 32")
    state["linear0.weight"] = state["linear0.weight"][:, :3]
    with pytest.raises(
        ValueError, match="its gains depend on 3 numbers: on as many classes or on a part of the latent"
    ):
        studiogan.convert(state)


def test_attention_that_ours_has_not_is_told(original):
    # Its discriminator at 32 pixels may attend after any of three blocks at 8 × 8; ours after the first of these.
    state, _ = original("studiogan", "big discriminator 32")
    moved = {}
    for key, value in state.items():
        place, dot, rest = key.removeprefix("blocks.").partition(".")
        order = {"0": 0, "2": 1, "3": 2, "1": 3, "4": 4}
        moved[f"blocks.{order[place]}{dot}{rest}" if key.startswith("blocks.") else key] = value
    with pytest.raises(ValueError, match=r"keys do not fit a biggan discriminator: \d+ extra: blocks\.3\.0\."):
        studiogan.convert(moved)
