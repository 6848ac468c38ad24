"""Checkpoints of pytorch-pretrained-biggan: outputs equal to its own, recorded by make_pretrained_fixtures.py."""

import pytest
import torch

from poise import convert
from poise.convert import pretrained_biggan
from poise.norms import sigmas

CASES = ["generator 128", "generator 256"]


@pytest.mark.parametrize("truncation", [0.5, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_originals(case, truncation, original, answer):
    state, recorded = original("pretrained_biggan", case)
    network = pretrained_biggan.convert(state, truncation).build()
    assert answer(network) == pytest.approx(recorded["outputs"][str(truncation)], rel=1e-4, abs=1e-4)


def test_a_file_is_read_without_truncation_and_kept(original, answer, tmp_path):
    state, recorded = original("pretrained_biggan", "generator 128")
    torch.save(state, tmp_path / "pytorch_model.bin")
    out = convert.convert(tmp_path / "pytorch_model.bin", tmp_path / "ours.safetensors")
    for path in (tmp_path / "pytorch_model.bin", out):
        assert answer(convert.load(path)) == pytest.approx(recorded["outputs"]["1.0"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_options_are_read_off_the_shapes(case, original):
    found = pretrained_biggan.convert(original("pretrained_biggan", case)[0])
    assert (found.architecture, found.network, found.norm) == ("biggan-deep", "generator", "sn")
    assert found.options == {
        "resolution": int(case.split()[1]),
        "width": 8,
        "latent_dim": 6,
        "num_classes": 3,
        "embedding_dim": 6,
        "attention": [64],
    }


@pytest.mark.parametrize(("truncation", "row"), [(0.0, 0), (0.5, 1), (0.7, 1), (0.8, 2), (1.0, 2)])
def test_the_statistics_are_those_of_the_threshold(truncation, row, original):
    # ε is 1e-4 there, 1e-5 here: σ² + ε is the same.
    state, _ = original("pretrained_biggan", "generator 128")
    found = pretrained_biggan.convert(state, truncation).state
    for ours, theirs in (("norm", "generator.bn"), ("blocks.9.norm3.norm", "generator.layers.10.bn_2")):
        torch.testing.assert_close(found[f"{ours}.running_mean"], state[f"{theirs}.running_means"][row])
        variance = found[f"{ours}.running_var"].double() + 1e-5
        expected = state[f"{theirs}.running_vars"][row].double() + 1e-4
        torch.testing.assert_close(variance, expected, rtol=0, atol=2e-7)


def test_the_spectral_norm_of_every_layer_is_the_originals(original):
    state, _ = original("pretrained_biggan", "generator 128")
    theirs = []
    for key, weight in state.items():
        if key.endswith(".weight_orig"):
            u, v = (state[key.replace("weight_orig", kind)] for kind in ("weight_u", "weight_v"))
            theirs.append(float(u @ weight.flatten(1) @ v))
    ours = [float(sigma) for sigma in sigmas(pretrained_biggan.convert(state).build()).values()]
    assert sorted(ours) == pytest.approx(sorted(theirs), rel=1e-5)


def test_a_training_step_measures_the_three_channels_alone(original):
    network = pretrained_biggan.convert(original("pretrained_biggan", "generator 128")[0]).build().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    for _ in range(2):
        network(torch.randn(2, 6), torch.tensor([0, 2])).sum().backward()
        optimizer.step()
    vectors = dict(network.get_submodule("to_rgb").named_buffers())
    assert vectors["parametrizations.weight.0.u_out"].norm() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("embeddings.weight", "^1 missing: embeddings.weight, of "),
        ("generator.gen_z.bias", "biggan-deep generator: 1 missing: generator.gen_z.bias$"),
        ("generator.layers.3.bn_2.scale.weight_v", r"1 missing: generator\.layers\.3\.bn_2\.scale\.weight_v$"),
        ("generator.layers.3.bn_2.running_vars", r"1 missing: generator\.layers\.3\.bn_2\.running_vars$"),
        ("generator.conv_to_rgb.weight_u", r"1 missing: generator\.conv_to_rgb\.weight_u$"),
        ("generator.conv_to_rgb.bias", "1 missing: generator.conv_to_rgb.bias"),
    ],
)
def test_a_missing_key_is_named(key, told, original):
    state, _ = original("pretrained_biggan", "generator 128")
    del state[key]
    assert pretrained_biggan.recognise(state)
    with pytest.raises(ValueError, match=told):
        pretrained_biggan.convert(state)


def test_another_number_of_blocks_and_thresholds_out_of_range_are_refused(original):
    state, _ = original("pretrained_biggan", "generator 128")
    for truncation in (-0.1, 1.1):
        with pytest.raises(ValueError, match=rf"^truncation is {truncation}; .* from 0 to 1$"):
            pretrained_biggan.convert(state, truncation)
    state = {key: value for key, value in state.items() if not key.startswith("generator.layers.10.")}
    with pytest.raises(
        ValueError, match=r"^the file has 9 blocks; known: 10 \(128 pixels\), 12 \(256 pixels\), 14 \(512"
    ):
        pretrained_biggan.convert(state)
