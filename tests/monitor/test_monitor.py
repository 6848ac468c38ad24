"""The monitor: right verdicts with evidence, in anybody's loop, and without touching what it watches."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.monitor import Monitor, Verdict

NAN, INF = math.nan, math.inf


def networks(norm: str = "bssn") -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    discriminator = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.1), nn.Linear(8, 1))
    return generator, poise.normalize(discriminator, norm)


def watched() -> Monitor:
    generator, discriminator = networks()
    return Monitor(generator=generator, discriminator=discriminator)


def train(watch: bool, norm: str) -> tuple[dict[str, Tensor], list[dict]]:
    """A plain adversarial loop in plain torch, observed at every step or not: final state and records."""
    generator, discriminator = networks(norm)
    g_adam = torch.optim.Adam(generator.parameters(), 1e-2)
    d_adam = torch.optim.Adam(discriminator.parameters(), 1e-2)
    monitor = Monitor(generator=generator, discriminator=discriminator) if watch else None
    records = []
    for step in range(1, 6):
        fake, real = generator(torch.randn(16, 4)), torch.randn(16, 2)
        d_loss = (discriminator(fake.detach()) - discriminator(real)).mean()
        d_adam.zero_grad()
        d_loss.backward()
        d_adam.step()
        g_adam.zero_grad()
        g_loss = -discriminator(fake).mean()
        g_loss.backward()
        g_adam.step()
        if monitor:
            gradients = monitor.gradient_norms("G") | monitor.gradient_norms("D")
            records.append(monitor.observe(step, gradients, d_loss=d_loss, g_loss=g_loss))
    return {**generator.state_dict(prefix="G."), **discriminator.state_dict(prefix="D.")}, records


def test_a_plain_loop_gets_a_record_of_every_layer() -> None:
    _, records = train(watch=True, norm="bssn")
    layers = {"G.0", "G.2", "D.0", "D.2"}
    for record in records:
        assert record.keys() >= {"d_loss", "g_loss", "gradient_norm", "verdict"}
        assert record["gradient_norm"].keys() == layers
        assert record["verdict"] == "warming-up"
    at_five = {"sigma", "effective_sigma", "gradient_variance", "update_ratio", "singular_values", "stable_rank"}
    assert records[-1].keys() >= at_five
    assert records[0]["sigma"].keys() == records[-1]["update_ratio"].keys() == layers
    assert records[0]["effective_sigma"].keys() == {"D.0", "D.2"}
    assert not at_five & records[2].keys()
    assert json.loads(json.dumps(records)) == records


@pytest.mark.parametrize("norm", ["none", "sn", "bssn"])
def test_observing_a_training_does_not_change_it(norm: str) -> None:
    """Bit for bit, the singular vectors of the norm included."""
    torch.testing.assert_close(train(watch=True, norm=norm)[0], train(watch=False, norm=norm)[0], rtol=0, atol=0)


def test_gradient_norms_are_named_by_player() -> None:
    monitor = watched()
    assert monitor.gradient_norms("G") == {}
    monitor.networks["D"](torch.ones(3, 2)).sum().backward()
    assert monitor.gradient_norms("D").keys() == {"D.0", "D.2"}
    assert monitor.gradient_norms("G") == {}


def test_nothing_is_said_before_there_is_a_past() -> None:
    monitor = watched()
    assert not monitor.verdict.is_failing
    monitor.observe(7, {"G.0": torch.tensor(1e30)}, d_loss=0.0, g_loss=torch.tensor(-3.5))
    assert monitor.verdict == Verdict("warming-up", 7, since=0)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_a_signal_that_is_not_finite_is_named(bad: float, kind: type) -> None:
    monitor = watched()
    record = monitor.observe(3, d_loss=0.5, g_loss=kind(bad))
    assert record["verdict"] == "not-finite"
    assert monitor.verdict.is_failing
    assert monitor.verdict.evidence == f"g_loss is {bad} at step 3"


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_gradient_that_is_not_finite_is_named_with_its_layer(bad: float) -> None:
    monitor = watched()
    monitor.observe(4, {"G.0": torch.tensor(1.0), "D.2": torch.tensor(bad)}, d_loss=0.5)
    assert monitor.verdict.evidence == f"gradient_norm of D.2 is {bad} at step 4"


@pytest.mark.parametrize("layer", ["G.0", "G.2", "D.0", "D.2"])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_weight_that_is_not_finite_shows_in_the_sigma_of_its_layer(layer: str, bad: float) -> None:
    monitor = watched()
    player, _, name = layer.partition(".")
    for weight in monitor.networks[player].get_submodule(name).parameters():
        weight.data.fill_(bad)
    monitor.observe(5, d_loss=0.5)
    assert monitor.verdict.name == "not-finite"
    assert monitor.verdict.evidence.startswith(f"sigma of {layer} is ")


def test_a_verdict_advises_and_is_kept_as_json() -> None:
    monitor = watched()
    monitor.observe(9, d_loss=NAN)
    kept = json.loads(json.dumps(monitor.verdict.to_json()))
    fields = {"signal", "layer", "value", "threshold", "since", "confidence"}
    assert kept.keys() == {"verdict", "step", "evidence", "advice"} | fields
    assert (kept["verdict"], kept["step"], kept["since"], kept["signal"]) == ("not-finite", 9, 9, "d_loss")
    assert Verdict.from_json(kept) == monitor.verdict
    assert "learning rate" in kept["advice"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_signals_of_any_number_type_are_read(dtype: torch.dtype) -> None:
    record = watched().observe(1, d_loss=torch.tensor([2], dtype=dtype), real_logit=torch.tensor(3.0), lr=0.25)
    assert (record["d_loss"], record["real_logit"], record["lr"]) == (2.0, 3.0, 0.25)


def test_a_signal_with_a_graph_is_read_without_it() -> None:
    weight = torch.ones((), requires_grad=True)
    assert watched().observe(1, d_loss=weight * 2)["d_loss"] == 2.0
    assert weight.grad is None
