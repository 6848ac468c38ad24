"""Measures of a run of a few steps, against calculations written out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from poise.data.digits import StackedDigits
from poise.metrics.evaluation import evaluate
from poise.models import create
from poise.sampling import to_float
from poise.studies import Trial
from poise.studies.measures import MEASURES, WORK
from poise.studies.measures.histories import sigma_history
from poise.studies.measures.networks import kept, networks_at, sampler_at
from poise.studies.measures.samples import THRESHOLDS, reconstruction
from poise.training import Recipe, Run, train
from poise.training.run import to_line

CPU = torch.device("cpu")
SMALL = {
    "model.width": 4,
    "model.latent_dim": 8,
    "steps": 4,
    "keep_every": 2,
    "batch_size": 8,
    "evaluation_samples": 20,
    "log_every": 1,
    "best_by": "none",
    "device": "cpu",
    "precision": "fp32",
    "evaluate_every": 4,
}


@pytest.fixture(autouse=True)
def shelf() -> None:
    """The shipped measures stay in their place here."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four steps under SN."""
    recipe = Recipe.load("stacked-digits", {**SMALL, "d_norm.name": "sn"})
    return train(recipe, tmp_path_factory.mktemp("run") / "sn", bar=False, say=lambda _: None)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Perceptrons under SN, to which the bound applies exactly."""
    changes = {**SMALL, "data.name": "ring2d", "model.name": "mlp", "model.width": 16, "model.depth": 3}
    del changes["model.latent_dim"]
    recipe = Recipe.load("ring2d", {**changes, "d_norm.name": "sn", "loss": "non-saturating", "penalties": []})
    return train(recipe, tmp_path_factory.mktemp("run") / "plane", bar=False, say=lambda _: None)


def test_a_run_is_measured_from_before_its_first_step_on(run: Run) -> None:
    assert kept(run) == [0, 2, 4]
    start, again = (networks_at(run, 0, CPU)[1].state_dict() for _ in range(2))
    end = networks_at(run, 4, CPU)[1].state_dict()
    assert all(torch.equal(start[name], again[name]) for name in start)
    assert not torch.equal(start["linear.bias"], end["linear.bias"])


def test_the_gradient_of_a_normalized_perceptron_is_within_the_bound(plane: Run) -> None:
    found = MEASURES["gradient-bound"](plane, CPU)
    assert 0 < found.figures["end"] <= found.figures["whole"] <= 1.3  # σ is one round of power iteration old
    assert [step for step, _ in found.curves["gradient-bound"]] == [0, 2, 4]


def test_the_ratio_to_the_bound_is_that_of_the_gradient_written_out(plane: Run) -> None:
    discriminator = networks_at(plane, 4, CPU)[1]
    layers = [layer for layer in discriminator.modules() if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().double() for layer in layers]
    ratios = []
    for x in plane.data().batch(0, 16)[0].double():
        inputs, slopes = [x], []
        for index, weight in enumerate(weights):
            h = weight @ inputs[-1]
            slope = torch.where(h > 0, 1.0, 0.01) if index < len(weights) - 1 else torch.ones_like(h)
            slopes.append(slope)
            inputs.append(h * slope)
        delta, squares = torch.ones(1, dtype=torch.float64), 0.0
        for index in reversed(range(len(weights))):
            delta = delta * slopes[index]
            squares += (delta.norm() * inputs[index].norm()).item() ** 2
            delta = weights[index].T @ delta
        ratios.append(math.sqrt(squares / len(weights)) / x.norm().item())
    assert MEASURES["gradient-bound"](plane, CPU).figures["end"] == pytest.approx(max(ratios), rel=1e-4)


def test_the_gradient_history_is_the_norm_over_layers(run: Run) -> None:
    found = MEASURES["gradient-history"](run, CPU)
    last = [value for name, value in run.records()[-2]["gradient_norm"].items() if name.startswith("D.")]
    assert found.figures["last"] == pytest.approx(np.linalg.norm(last))
    assert found.figures["largest"] >= found.figures["median"]


def test_variances_are_those_of_the_weights_in_use(run: Run) -> None:
    found = MEASURES["weight-variance"](run, CPU)
    curves = {name.partition("/")[2]: dict(found.curves[name]) for name in found.curves if name.startswith("weight")}
    by_step = {step: networks_at(run, step, CPU)[1] for step in (0, 4)}
    relative = {step: {} for step in by_step}  # type: ignore[var-annotated]
    for step, network in by_step.items():
        for name in curves:
            weight = network.get_submodule(name).weight.detach().double().numpy()  # type: ignore[operator]
            relative[step][name] = weight.var() * weight[0].size
            assert curves[name][step] == pytest.approx(relative[step][name], rel=1e-4)
    drift = [abs(math.log(relative[4][name] / relative[0][name])) for name in curves]
    assert found.figures["drift"] == pytest.approx(np.mean(drift), rel=1e-3)
    # Of any matrix: ‖W‖² ≤ min(m, n)·σ², so that the variance of W/σ is at most 1/max(m, n), about.
    assert found.figures["lecun_high"] < 1.3


def test_spectra_are_numpys(run: Run) -> None:
    found = MEASURES["spectra"](run, CPU)
    weight = networks_at(run, 4, CPU)[1].convs[2].weight.detach().double().flatten(1)  # type: ignore[union-attr,index]
    squared = np.linalg.svd(weight.numpy(), compute_uv=False) ** 2
    assert [share for _, share in found.curves["spectrum/convs.2"]] == pytest.approx(squared / squared[0], abs=1e-4)
    assert found.figures["first/convs.2"] == pytest.approx(squared[0] / squared.sum(), rel=1e-4)
    spread = squared.sum() ** 2 / (squared**2).sum() / len(squared)
    assert found.figures["spread/convs.2"] == pytest.approx(spread, rel=1e-4)
    hidden = [found.figures[f"spread/convs.{index}"] for index in range(1, 5)]
    assert found.figures["spread/hidden"] == pytest.approx(np.mean(hidden))


def test_a_longer_search_makes_held_out_images_again_no_worse(run: Run) -> None:
    found = reconstruction(run, CPU, images=4, running=3, final=30)
    assert [step for step, _ in found.curves["reconstruction"]] == [2, 4]
    target = to_float(StackedDigits("test", 16, 0).batch(0, 4)[0])
    untouched = sampler_at(run, 4, CPU).generator(torch.zeros(4, 8)).sub(target).square().mean().item()
    assert found.figures["final"] <= found.figures["last"] < 1.5 * untouched


def test_the_untrained_generator_is_judged_as_any(run: Run) -> None:
    expected = evaluate(sampler_at(run, 0, CPU), run.data(), samples=1_000).values
    assert MEASURES["untrained"](run, CPU).figures == pytest.approx(expected)


def test_truncation_gives_a_point_for_each_threshold(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.studies.measures.samples.TRUNCATED_SAMPLES", 30)
    found = MEASURES["truncation"](run, CPU)
    assert [step for step, _ in found.curves["truncation/is"]] == [round(1000 * t) for t in THRESHOLDS]
    names = [name for name in found.figures if name.startswith("is/")]
    assert len(names) == len(THRESHOLDS) + 1
    assert all(1 <= found.figures[name] <= 10 for name in names)


def logged(folder: Path, modes: list[float], sigma: list[float]) -> Run:
    """A run of 80 steps of which only the log is there: σ₀ at each tenth, modes at each twentieth."""
    recipe = Recipe.load("stacked-digits", {"steps": 80}).model_copy(update={"versions": {"poise": "0"}})
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    lines = [{"step": 10 * (i + 1), "sigma": {"G.a": value, "D.a": 2.0 + 0.01 * i}} for i, value in enumerate(sigma)]
    lines += [{"step": 20 * (i + 1), "evaluation": {"modes": value}} for i, value in enumerate(modes)]
    text = "".join(map(to_line, sorted(lines, key=lambda line: json.dumps(line["step"]).zfill(9))))
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return Run(folder)


CALM = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]


@pytest.mark.parametrize(
    ("modes", "sigma", "collapse", "jumps"),
    [
        ([100, 200, 300, 300], CALM, 2.0, False),
        ([100, 200, 90, 80], [1.0, 1.1, 1.2, 1.3, 9.0, 9.1, 9.2, 9.3], 0.75, True),
        ([100, 200, 90, 80], CALM, 0.75, False),
        ([40, 10, 40, 40], CALM, 2.0, False),  # there was nothing to collapse
        ([100, 200], CALM[:5], 0.625, False),  # it ended, not finite, at step 50
    ],
)
def test_a_collapse_is_found_where_modes_are_lost(
    tmp_path: Path, modes: list[float], sigma: list[float], collapse: float, jumps: bool
) -> None:
    found = sigma_history(logged(tmp_path / "run", modes, sigma), CPU)
    assert found.figures["collapse"] == collapse
    assert found.figures["best"] == max(modes)
    assert found.figures["g_growth"] == pytest.approx(sigma[-1])
    assert (found.figures["g_jump"] > 3) == jumps
    assert found.figures["d_jump"] < 3


def work(name: str, recipe: str, folder: Path, **changes: object) -> dict[str, float]:
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return dict(WORK[name](Trial("", recipe, given, 1, work=name), folder).figures)


def test_parameters_are_those_of_the_networks(tmp_path: Path) -> None:
    found = work("parameters", "stacked-digits", tmp_path, model__width=8)
    networks = create("sngan-cnn", resolution=16, width=8, latent_dim=128)
    counts = [sum(weight.numel() for weight in network.parameters()) / 1e6 for network in networks]
    assert [found["generator"], found["discriminator"], found["both"]] == pytest.approx([*counts, sum(counts)])


def test_one_image_per_class_scores_high_at_a_great_distance(tmp_path: Path) -> None:
    found = work("one-per-class", "stacked-digits", tmp_path)
    assert found["is_one"] > found["is_real"] > 500
    assert found["fd_one"] > 10 * found["fd_real"]


def test_steps_are_timed_by_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.studies.measures.work.ROUNDS", 3)
    changes = {"model__width": 2, "batch_size": 4, "device": "cpu", "precision": "fp32"}
    found = work("step-cost", "stacked-digits", tmp_path, **changes)
    assert min(found.values()) > 0
    assert {"none", "sn", "wgan_gp", "sn_ratio", "wgan_gp_ratio"} == set(found)
