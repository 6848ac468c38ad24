"""Which layers are normalized, and the table that says so."""

import copy

import pytest
import torch
from torch import nn

import poise
from poise.layers import ClassBatchNorm
from poise.norms import normalized_weights


def network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2))
    return nn.ModuleDict({"embed": nn.Embedding(5, 8), "body": body, "head": nn.Linear(4, 1)})


SELECTIONS = {
    "a type": (nn.Linear, ["head"]),
    "a name": ("head", ["head"]),
    "a pattern": ("body.*", ["body.0", "body.2"]),
    "several": ([nn.Embedding, "body.0"], ["embed", "body.0"]),
    "a function": (lambda _name, layer: layer.weight.numel() > 100, ["body.0", "body.2"]),
    "all": (None, ["embed", "body.0", "body.2", "head"]),
}


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=list(SELECTIONS))
def test_only_the_layers_chosen_are_normalized(selection):
    layers, wanted = selection
    chosen = poise.normalize(network(), "sn", layers=layers)
    assert [weight.name for weight in normalized_weights(chosen)] == wanted


@pytest.mark.parametrize("layers", ["tail", nn.Conv3d, [], lambda _name, _layer: False])
def test_a_selection_of_nothing_names_what_there_is(layers):
    plain = network()
    keys = list(plain.state_dict())
    with pytest.raises(ValueError, match=r"selects none of ModuleDict's layers: embed, body.0, body.2, head"):
        poise.normalize(plain, "sn", layers=layers)
    assert list(plain.state_dict()) == keys


def test_norms_may_differ_by_layer():
    mixed = poise.normalize(network(), "bssn", layers="body.*", scale=2.0)
    poise.normalize(mixed, "wn", layers=[nn.Linear, nn.Embedding])
    rows = {row.layer: row for row in poise.describe(mixed).rows}
    assert rows["body.0"].norm == "SpectralNorm(scale=2.0, directions=out+in)"
    assert rows["head"].norm.startswith("WeightNorm(")
    poise.denormalize(mixed)
    assert list(normalized_weights(mixed)) == []


def test_the_table_holds_exact_singular_values_and_changes_nothing():
    chosen = poise.normalize(network(), "ssn", layers=[nn.Conv2d, nn.ConvTranspose2d], scale=3.0)
    state = {name: tensor.clone() for name, tensor in chosen.state_dict().items()}
    table = poise.describe(chosen)
    assert [row.layer for row in table.rows] == ["embed", "body.0", "body.2", "head"]
    for row in table.rows:
        layer = chosen.get_submodule(row.layer)
        effective: torch.Tensor = layer.weight.detach()  # type: ignore[operator]
        name = "parametrizations.weight.original"
        weight = dict(layer.named_parameters()).get(name, effective).detach()
        row_dim = 1 if row.layer == "body.2" else 0
        for value, matrix in ((row.sigma, weight), (row.effective_sigma, effective)):
            wanted = torch.linalg.svdvals(matrix.movedim(row_dim, 0).flatten(1).double())[0].item()
            assert value == pytest.approx(wanted, rel=1e-5)
    assert table.rows[1].effective_sigma == pytest.approx(3.0, rel=1e-2)
    assert all(torch.equal(state[name], tensor) for name, tensor in chosen.state_dict().items())
    assert chosen.training


def test_the_table_reads_as_one():
    lines = str(poise.describe(poise.normalize(network(), "sn", layers="head"))).splitlines()
    assert lines[0].split() == ["layer", "shape", "norm", "σ", "effective", "σ"]
    assert len(lines) == 5
    assert lines[1].split()[:3] == ["embed", "5×8", "none"]
    assert "SpectralNorm(scale=1.0, directions=out)" in lines[4]


def test_tables_of_gains_by_class_are_passed_over_unless_they_are_asked_for():
    module = nn.ModuleDict({"norm": ClassBatchNorm(4, 3), "conv": nn.Conv2d(4, 4, 3)})
    assert [weight.name for weight in normalized_weights(poise.normalize(copy.deepcopy(module), "sn"))] == ["conv"]
    asked = poise.normalize(copy.deepcopy(module), "sn", layers="norm.*")
    assert [weight.name for weight in normalized_weights(asked)] == ["norm.gain", "norm.bias"]
    with pytest.raises(ValueError, match="has no layer to normalize"):
        poise.normalize(module["norm"], "sn")
