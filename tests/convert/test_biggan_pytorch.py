"""Checkpoints of BigGAN-PyTorch: outputs equal to those of its own networks, recorded by make_biggan_fixtures.py."""

import pytest
import torch

from poise import convert
from poise.convert import biggan_pytorch
from poise.norms import normalized_weights
from poise.norms.normalization import NORMALIZED_LAYERS

OPTIONS = {
    "generator 32": {"latent_dim": 12, "shared_embedding": True, "skip_z": True, "attention": [16]},
    "generator 64": {"latent_dim": 10, "shared_embedding": True, "skip_z": True, "attention": []},
    "generator 128": {"latent_dim": 12, "shared_embedding": True, "skip_z": True, "attention": [64]},
    "generator whole latent": {"latent_dim": 5, "shared_embedding": True, "skip_z": False, "attention": []},
    "generator gains per class": {"latent_dim": 5, "shared_embedding": False, "skip_z": False, "attention": []},
    "generator plain weights": {"latent_dim": 8, "shared_embedding": True, "skip_z": True, "attention": []},
    "discriminator 32": {"width": 4, "resolution": 32, "attention": []},
    "discriminator 64": {"width": 4, "resolution": 64, "attention": [16]},
    "discriminator 128": {"width": 8, "resolution": 128, "attention": [64]},
    "deep generator 128": {"latent_dim": 5, "embedding_dim": 6, "width": 8, "attention": [64]},
    "deep generator 256": {"latent_dim": 5, "embedding_dim": 6, "width": 8, "attention": [32]},
    "deep discriminator 128": {"resolution": 128, "width": 8, "attention": [64]},
    "deep discriminator 256": {"resolution": 256, "width": 8, "attention": [32]},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_outputs_are_the_originals(case, original, answer, tmp_path):
    state, recorded = original("biggan_pytorch", case)
    torch.save(state, tmp_path / "network.pth")
    network = convert.load(tmp_path / "network.pth")
    assert not network.training
    assert answer(network) == pytest.approx(recorded["output"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("case", OPTIONS)
def test_options_are_read_off_the_shapes(case, original):
    state, _ = original("biggan_pytorch", case)
    found = biggan_pytorch.convert(state)
    assert found.network == case.removeprefix("deep ").partition(" ")[0]
    assert found.norm == (None if "plain" in case else "sn")
    architecture = "biggan-deep" if case.startswith("deep") else "biggan"
    assert (found.architecture, found.options["num_classes"]) == (architecture, 3)
    assert {key: found.options[key] for key in OPTIONS[case]} == OPTIONS[case]


def test_all_but_the_generators_embedding_are_normalized(original):
    for case, left_out in (("generator 128", {"embedding.table"}), ("discriminator 128", set())):
        network = biggan_pytorch.convert(original("biggan_pytorch", case)[0]).build()
        layers = {name for name, layer in network.named_modules() if isinstance(layer, NORMALIZED_LAYERS)}
        assert layers - {weight.name for weight in normalized_weights(network)} == left_out


def test_training_goes_on_from_the_converted_network(original):
    d = biggan_pytorch.convert(original("biggan_pytorch", "discriminator 32")[0]).build().train()
    d(torch.rand(2, 3, 32, 32), torch.tensor([0, 2])).sum().backward()
    for name, weight in d.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("case", "key", "told"),
    [
        ("generator 32", "linear.weight", "^1 missing: linear.weight, of "),
        ("generator 32", "blocks.1.0.conv2.bias", "biggan generator: 1 missing: blocks.1.0.conv2.bias$"),
        ("generator 32", "blocks.1.1.o.u0", "1 missing: blocks.1.1.o.u0$"),
        ("generator 64", "blocks.0.0.bn2.bn.stored_var", "1 missing: blocks.0.0.bn2.bn.stored_var$"),
        ("generator 32", "shared.weight", "has no|missing|misshapen"),
        ("deep generator 128", "blocks.3.0.conv4.u0", r"biggan-deep generator: 1 missing: blocks\.3\.0\.conv4\.u0$"),
        ("deep discriminator 128", "blocks.2.0.conv_sc.bias", r"1 missing: blocks\.2\.0\.conv_sc\.bias$"),
        ("discriminator 32", "embed.weight", "^1 missing: embed.weight, of "),
        ("discriminator 32", "embed.u0", "biggan discriminator: 1 missing: embed.u0$"),
        ("discriminator 32", "blocks.2.0.conv1.weight", "1 missing: blocks.2.0.conv1.weight$"),
    ],
)
def test_a_missing_key_is_named(case, key, told, original):
    state, _ = original("biggan_pytorch", case)
    del state[key]
    assert biggan_pytorch.recognise(state)
    with pytest.raises(ValueError, match=told):
        biggan_pytorch.convert(state)


def test_extra_and_misshapen_keys_are_named(original):
    state, _ = original("biggan_pytorch", "discriminator 32")
    state |= {f"blocks.1.0.more{i}.weight": torch.zeros(1) for i in range(7)}
    state["linear.bias"] = torch.zeros(2)
    with pytest.raises(
        ValueError, match=r"7 extra: (blocks\.1\.0\.more\d\.weight, ){4}.* and 2 more; 1 misshapen: linear"
    ):
        biggan_pytorch.convert(state)


def test_another_number_of_blocks_is_refused(original):
    state, _ = original("biggan_pytorch", "discriminator 32")
    state = {key: value for key, value in state.items() if not key.startswith("blocks.3")}
    with pytest.raises(ValueError, match=r"^the file has 3 blocks; known: 4 \(32 pixels\), 5 \(64 pixels\)"):
        biggan_pytorch.convert(state)
