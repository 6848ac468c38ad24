"""The monitor: right verdicts with evidence, in anybody's loop, and without touching what it watches."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

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
        fake_logits, real_logits = discriminator(fake.detach()), discriminator(real)
        d_loss = (fake_logits - real_logits).mean()
        d_adam.zero_grad()
        d_loss.backward()
        d_adam.step()
        g_adam.zero_grad()
        g_loss = -discriminator(fake).mean()
        g_loss.backward()
        g_adam.step()
        if monitor:
            gradients = monitor.gradient_norms("G") | monitor.gradient_norms("D")
            logits = {"real_logits": real_logits, "fake_logits": fake_logits}
            shown = {"real": real, "fake": fake}
            records.append(monitor.observe(step, gradients, **logits, **shown, d_loss=d_loss, g_loss=g_loss))
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


GIVEN: dict[str, tuple[set[str], set[str]]] = {
    "nothing": (set(), {"gradient_norm", "sigma"}),
    "losses": ({"d_loss", "g_loss"}, {"d_loss", "g_loss"}),
    "real logits": ({"real_logits"}, {"real_logit", "real_logit_std"}),
    "logits": ({"real_logits", "fake_logits"}, {"ranking", "saturation", "logit_gap", "fake_logit_std"}),
    "real samples": ({"real"}, {"largest_real", "hidden_variance"}),
    "samples": ({"real", "fake"}, {"diversity", "neighbours", "coverage", "feature_diversity", "lipschitz"}),
}


@pytest.mark.parametrize("name", GIVEN)
def test_any_subset_may_be_given_and_the_rest_is_silent(name: str) -> None:
    given, measured = GIVEN[name]
    values = {"d_loss": torch.tensor(1.0), "g_loss": torch.tensor(2.0)}
    values |= {"real": torch.randn(9, 2), "fake": torch.randn(9, 2)}
    values |= {"real_logits": torch.randn(9), "fake_logits": torch.randn(9, 1)}
    monitor = watched()
    monitor.networks["D"](values["real"]).sum().backward()
    record = monitor.observe(5, **{key: values[key] for key in given})  # type: ignore[arg-type]
    assert record.keys() >= measured
    for other, (_, absent) in GIVEN.items():
        if not set(GIVEN[other][0]) <= set(given):
            assert not absent <= record.keys(), other
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("player", ["G", "D"])
def test_one_network_may_be_watched_alone(player: str) -> None:
    network = dict(zip("GD", networks(), strict=True))[player]
    monitor = Monitor(generator=network) if player == "G" else Monitor(discriminator=network)
    network(torch.ones(3, 4 if player == "G" else 2)).sum().backward()
    record = monitor.observe(1, d_loss=1.0)
    assert record["gradient_norm"].keys() == record["sigma"].keys() == {f"{player}.0", f"{player}.2"}


def test_probes_have_their_cadences_and_what_was_missed_is_made_up_for() -> None:
    generator, discriminator = networks()
    monitor = Monitor(generator=generator, discriminator=discriminator, every={"spectra": 10, "updates": 0})
    seen = {step: monitor.observe(step, d_loss=1.0).keys() for step in (1, 2, 9, 10, 11, 25, 30)}
    assert [step for step, keys in seen.items() if "sigma" in keys] == [1, 10, 25, 30]
    assert not any("update_ratio" in keys for keys in seen.values())


@pytest.mark.parametrize(
    ("every", "complaint"),
    [
        ({"sigma": 5}, "unknown probe 'sigma'; known: gradients"),
        ({"spectra": -1}, "spectra every -1 steps"),
        (-2, "-2"),
    ],
)
def test_a_wrong_cadence_is_refused(every: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Monitor(every=every)


def test_networks_that_take_other_arguments_are_watched_without_being_shown_samples() -> None:
    monitor = Monitor(discriminator=nn.Bilinear(2, 2, 1))
    samples = {"real": torch.randn(9, 2), "fake": torch.randn(9, 2)}
    with pytest.warns(UserWarning, match="cannot be shown samples by the monitor, which goes on without"):
        record = monitor.observe(5, None, **samples)
    assert "diversity" in record
    assert "hidden_variance" not in record
    monitor.observe(10, None, **samples)  # no second warning, which pytest would make an error below


def test_callbacks_are_called_when_the_verdict_changes() -> None:
    called: list[tuple[str, str]] = []

    def noted(event: str, verdict: Verdict) -> None:
        called.append((event, verdict.name))

    monitor = watched()
    for event in ("not-finite", "failing", "change", "healthy", "warming-up"):
        monitor.on(event, functools.partial(noted, event))
    for step, loss in enumerate([1.0, NAN, NAN, 1.0]):
        monitor.observe(step, d_loss=loss)
    assert called == [
        *[("not-finite", "not-finite"), ("failing", "not-finite"), ("change", "not-finite")],
        *[("warming-up", "warming-up"), ("change", "warming-up")],
    ]
    assert [verdict.name for verdict in monitor.timeline] == ["warming-up", "not-finite", "warming-up"]
    with pytest.raises(ValueError, match="unknown verdict 'collapse'; known: healthy"):
        monitor.on("collapse", print)


def test_a_tracker_gets_flat_scalars_with_their_step() -> None:
    tracked: list[tuple[dict, int]] = []
    generator, discriminator = networks()
    tracker = lambda values, step: tracked.append((values, step))  # noqa: E731
    monitor = Monitor(generator=generator, discriminator=discriminator, tracker=tracker)
    record = monitor.observe(3, d_loss=0.5)
    ((values, step),) = tracked
    assert step == 3
    assert values["d_loss"] == 0.5
    assert values["sigma/G.0"] == record["sigma"]["G.0"]
    assert all(isinstance(value, float) for value in values.values())


@pytest.mark.parametrize("at", [3, 17, 40])
def test_a_resumed_monitor_judges_alike(at: int) -> None:
    """A weight that grows until it is called an explosion; stopped and resumed on the way."""

    def watch(monitor: Monitor, first: int, last: int) -> list[dict[str, Any]]:
        records = []
        for step in range(first, last):
            weight = monitor.networks["G"].get_submodule("0").weight
            assert isinstance(weight, Tensor)
            if step > 20:
                weight.data.mul_(1.15)
            records.append(monitor.observe(step, d_loss=1.0 + 0.1 * (step % 3)))
        return records

    def made() -> Monitor:
        generator, discriminator = networks()
        return Monitor(generator=generator, discriminator=discriminator, every=1)

    whole, first, second = made(), made(), made()
    records = watch(whole, 0, 60)
    watch(first, 0, at)
    for player, network in second.networks.items():
        network.load_state_dict(first.networks[player].state_dict())
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    later = watch(second, at, 60)
    assert [record["verdict"] for record in later] == [record["verdict"] for record in records[at:]]
    assert later[-1]["update_ratio"] == pytest.approx(records[-1]["update_ratio"])
    assert later[0].keys() == records[at].keys()
    assert second.verdict.name == "spectral-explosion"
    assert second.verdict.layer == "G.0"
    assert second.advice == second.verdict.advice != ""


@pytest.mark.parametrize("bad", [NAN, INF])
def test_bad_data_is_named_before_what_came_of_it(bad: float) -> None:
    monitor = watched()
    real = torch.randn(9, 2)
    real[3, 1] = bad
    monitor.observe(5, {"D.0": torch.tensor(NAN)}, d_loss=NAN, real=real, fake=torch.randn(9, 2))
    assert monitor.verdict.evidence.startswith(f"the largest entry of the real samples is {bad} at step 5")


@pytest.mark.parametrize("wrap", ["compile", "data parallel"])
def test_a_wrapped_network_is_watched_by_its_own_names(wrap: str) -> None:
    plain = networks()[1]
    wrapped = torch.compile(plain) if wrap == "compile" else nn.DataParallel(plain)
    assert Monitor(discriminator=wrapped).networks["D"] is plain  # type: ignore[arg-type]


def test_real_samples_that_are_alike_are_no_failure() -> None:
    """A batch of a small set may hold an image twice: there is no distance to compare with, and nothing is broken."""
    monitor = watched()
    record = monitor.observe(1, real=torch.ones(8, 2), fake=torch.randn(8, 2))
    assert not {"neighbours", "coverage"} & record.keys()
    assert record["verdict"] == "warming-up"


def test_the_generator_is_shown_the_latents_given() -> None:
    generator, discriminator = networks()
    monitor = Monitor(generator=generator, discriminator=discriminator, latents=(torch.full((9, 4), 3.0),))
    record = monitor.observe(1)
    hidden = generator.get_submodule("0")(torch.full((9, 4), 3.0)).var(correction=0)
    assert record["hidden_variance"]["G.0"] == pytest.approx(hidden.item(), rel=1e-5)


def test_a_monitor_resumed_with_its_vectors_measures_bit_for_bit_alike() -> None:
    """Without them, spectra are found anew, which is right but not the same."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(40, 48), nn.Linear(48, 40))
    first = Monitor(generator=wide, every=1)

    def moved(step: int) -> None:
        for weight in wide.parameters():
            weight.data.add_(0.01 * torch.sin(step + torch.arange(weight.numel()).view_as(weight)))

    for step in range(1, 4):
        moved(step)
        first.observe(step)
    second = Monitor(generator=wide, every=1)
    second.load_state_dict(first.state_dict(with_vectors=True))
    moved(4)
    assert second.observe(4) == first.observe(4)
