"""Checkpoints of torch-mimicry: outputs equal to those of its own networks, recorded by make_mimicry_fixtures.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise import convert
from poise.convert import mimicry
from poise.models import create
from poise.norms import normalized_weights

WIDTHS = {  # of generator and discriminator, in units of the table: mimicry's ngf and ndf are chosen apart
    "sngan 32": (2, 2),
    "sngan 48": (2, 1),
    "sngan 64": (1, 1),
    "sngan 128": (1, 1),
    "cgan_pd 32": (2, 2),
    "cgan_pd 128": (1, 1),
    "sagan 32": (8, 8),
    "sagan 128": (4, 4),
}
CASES = [
    f"{name.split()[0]} {network} {name.split()[1]}" for name in WIDTHS for network in ("generator", "discriminator")
]


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_originals(case, original, answer, tmp_path):
    state, recorded = original("mimicry", case)
    assert mimicry.recognise(state)
    # As mimicry's save_checkpoint keeps it.
    torch.save({"model_state_dict": state, "optimizer_state_dict": None, "global_step": 7}, tmp_path / "network.pth")
    network = convert.load(tmp_path / "network.pth")
    assert not network.training
    assert answer(network) == pytest.approx(recorded["output"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_options_are_read_off_the_shapes(case, original):
    module, network, resolution = case.split()
    found = mimicry.convert(original("mimicry", case)[0])
    is_generator = network == "generator"
    assert found.network == network
    assert found.architecture == ("sagan" if module == "sagan" else "sngan")
    assert found.norm == (None if is_generator and module != "sagan" else "sn")
    assert found.options == {
        "resolution": int(resolution),
        "width": WIDTHS[f"{module} {resolution}"][0 if is_generator else 1],
        "num_classes": 0 if module == "sngan" else 3,
        "upsample": "bilinear",
        "rectified_shortcuts": True,
        **({"latent_dim": 5} if is_generator else {}),
    }


def test_all_but_the_batch_norms_of_sagans_generator_are_normalized(original):
    g = mimicry.convert(original("mimicry", "sagan generator 32")[0]).build()
    layers = {name for name, layer in g.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)}
    plain = layers - {weight.name for weight in normalized_weights(g)}
    assert all(name.endswith((".gain", ".bias")) for name in plain)
    assert "linear" in layers - plain


def test_singular_vectors_are_carried_over(original):
    state, _ = original("mimicry", "cgan_pd discriminator 32")
    vectors = mimicry.convert(state).singular_vectors
    u, v = vectors["blocks.1.shortcut"]
    assert torch.equal(u, state["block2.c_sc.weight_u"])
    assert torch.equal(v, state["block2.c_sc.weight_v"])
    # Of layers with u alone, after the round of power iteration that each of their forwards runs.
    u, v = vectors["embedding"]
    weight = state["l_y.weight"].double()
    expected_v = F.normalize(weight.mT @ state["l_y.sn_u"].double().flatten(), dim=0)
    torch.testing.assert_close(v.double(), expected_v, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(u.double(), F.normalize(weight @ expected_v, dim=0), rtol=1e-5, atol=1e-6)


def test_converting_leaves_the_state_alone(original):
    state, _ = original("mimicry", "cgan_pd discriminator 32")
    before = {key: value.clone() for key, value in state.items()}
    mimicry.convert(state)
    assert state.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in state.items())


def test_training_goes_on_from_the_converted_network(original):
    d = mimicry.convert(original("mimicry", "cgan_pd discriminator 32")[0]).build().train()
    d(torch.rand(2, 3, 32, 32), torch.tensor([0, 2])).sum().backward()
    for name, weight in d.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("case", "key", "told"),
    [
        ("sngan generator 32", "l1.weight", "^1 missing: l1.weight, of "),
        ("sngan generator 32", "block2.c1.weight", "^1 missing: block2.c1.weight, of "),
        ("sngan generator 64", "block5.c_sc.bias", "sngan generator: 1 missing: block5.c_sc.bias$"),
        ("sngan generator 128", "b7.running_var", "1 missing: b7.running_var$"),
        ("cgan_pd generator 32", "block3.b2.embed.weight", "1 missing: block3.b2.embed.weight$"),
        ("cgan_pd generator 32", "block3.b2.bn.running_mean", "1 missing: block3.b2.bn.running_mean$"),
        ("sagan generator 32", "attn_block.gamma", "sagan generator: 1 missing: attn_block.gamma$"),
        ("sngan discriminator 48", "block4.c2.weight_orig", "sngan discriminator: 1 missing: block4.c2.weight_orig"),
        ("sngan discriminator 48", "block4.c2.weight_v", "1 missing: block4.c2.weight_v$"),
        ("cgan_pd discriminator 32", "l5.weight", "^1 missing: l5.weight, of "),
        ("cgan_pd discriminator 32", "l_y.weight", "^1 missing: l_y.weight, of "),
        ("cgan_pd discriminator 32", "l_y.sn_u", "^1 missing: l_y.sn_u, of "),
    ],
)
def test_a_missing_key_is_named(case, key, told, original):
    state, _ = original("mimicry", case)
    del state[key]
    assert mimicry.recognise(state)
    with pytest.raises(ValueError, match=told):
        mimicry.convert(state)


def test_extra_and_misshapen_keys_are_named(original):
    state, _ = original("mimicry", "sngan discriminator 32")
    state["local_nrkhs_a.c1.bias"] = torch.zeros(3)  # of another of its GANs, with the same blocks
    state["l5.bias"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"1 extra: local_nrkhs_a\.c1\.bias; 1 misshapen: l5\.bias has shape \(2,\)"):
        mimicry.convert(state)


@pytest.mark.parametrize(
    ("case", "dropped", "told"),
    [
        ("sngan generator 32", "c5.", "^0 of the layers c5, c6 and c7 are there"),
        ("sngan discriminator 64", "l6.", "^0 of the layers l5, l6 and l7 are there"),
        (
            "sngan discriminator 64",
            "block5.",
            "^the last block is block4 and the last layer l6; no resolution",
        ),
    ],
)
def test_a_part_that_tells_the_resolution_is_missed(case, dropped, told, original):
    state, _ = original("mimicry", case)
    state = {key: value for key, value in state.items() if not key.startswith(dropped)}
    with pytest.raises(ValueError, match=told):
        mimicry.convert(state)


def test_a_size_that_the_architecture_does_not_have_is_refused(original):
    state, _ = original("mimicry", "sngan generator 32")
    state["l1.weight"] = torch.zeros(5 * 5 * 4, 5)
    with pytest.raises(ValueError, match=r"^l1 gives 100 numbers, for 4 channels, .* layer is c5; no resolution"):
        mimicry.convert(state)
    state["l1.weight"], state["block2.c1.weight"] = torch.zeros(4 * 4 * 3, 5), torch.zeros(3, 3, 3, 3)
    with pytest.raises(ValueError, match=r"^block2\.c1 has 3 channels; at 32 pixels it must be a multiple of 2$"):
        mimicry.convert(state)


def test_a_discriminator_without_spectral_normalization_is_refused(original):
    # WGAN-GP's has these keys, and DCGAN's: one takes the mean over the pixels, the other the sum.
    state, _ = original("mimicry", "sngan discriminator 32")
    plain = {key.replace("_orig", ""): value for key, value in state.items() if not key.endswith(("_u", "_v"))}
    with pytest.raises(ValueError, match=r"^no weight is spectrally normalized: a WGAN-GP's or a DCGAN's"):
        mimicry.convert(plain)


@pytest.mark.parametrize("name", ["sngan", "sagan", "sngan-cnn"])
def test_our_own_networks_are_not_taken_for_its(name):
    with torch.device("meta"):
        pair = create(name, resolution=32)
    assert not any(mimicry.recognise(network.state_dict()) for network in pair)
