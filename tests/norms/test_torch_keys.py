"""Checkpoints of torch's own spectral norms load here, and ours load there, with the same weights."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

import poise
from poise.norms import torch_state_dict

FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "parametrization": parametrizations.spectral_norm,
    "hook": spectral_norm,
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2), nn.Flatten(), nn.Linear(64, 1))


def theirs(form: str) -> nn.Sequential:
    net = network()
    for index in (0, 2, 4):
        FORMS[form](net[index])
    return net


X = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("norm", "options"), [("sn", {}), ("ssn", {"scale": 1.0})])
def test_a_checkpoint_of_torch_loads_and_gives_its_outputs(form, norm, options):
    torch.manual_seed(0)
    source = theirs(form)
    source(X)  # a round of its own
    source.eval()
    ours = network()
    poise.normalize(ours, norm, **options)
    state = source.state_dict()
    keys = list(state)
    ours.load_state_dict(state)
    assert list(state) == keys
    torch.testing.assert_close(ours.eval()(X), source(X))
    torch.testing.assert_close(copy.deepcopy(ours)(X), source(X))


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_of_ours_loads_in_torch_and_gives_our_outputs(form):
    torch.manual_seed(0)
    ours = network()
    poise.normalize(ours, "sn")
    ours(X)
    target = theirs(form)
    target.load_state_dict(torch_state_dict(ours, form))
    torch.testing.assert_close(target.eval()(X), ours.eval()(X))


def test_two_directions_miss_what_torch_does_not_have():
    ours = network()
    poise.normalize(ours, "bsn")
    with pytest.raises(RuntimeError, match=r"Missing key.*0\.parametrizations\.weight\.0\.u_in"):
        ours.load_state_dict(theirs("hook").state_dict())


def test_a_baked_network_reads_plain_names_again():
    ours = network()
    poise.normalize(ours, "sn")
    poise.denormalize(ours)
    ours.load_state_dict(network().state_dict())
    with pytest.raises(RuntimeError, match="weight_orig"):
        ours.load_state_dict(theirs("hook").state_dict())


@pytest.mark.parametrize(
    ("norm", "options", "said"),
    [
        ("bsn", {}, "u_in has no counterpart"),
        ("ssn", {"scale": 2.0}, "has scale 2.0; torch's spectral norm has none"),
        ("sn", {"gamma": "shared"}, "gamma has no counterpart"),
        ("wn", {}, "gain has no counterpart"),
    ],
)
def test_what_torch_cannot_hold_is_refused(norm, options, said):
    ours = network()
    poise.normalize(ours, norm, **options)
    with pytest.raises(ValueError, match=said):
        torch_state_dict(ours)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form is 'new'; allowed: 'parametrization', 'hook'"):
        torch_state_dict(network(), "new")  # type: ignore[arg-type]
