"""Coverage of a mixture by points, and judging a generator of points by it."""

from __future__ import annotations

import math

import pytest
import torch

from poise.data.toys import Mixture, grid, grid2d, ring, ring2d
from poise.metrics import can_judge, evaluate
from poise.metrics.coverage import covered, judge_points
from poise.models import create
from poise.sampling import Sampler

TOYS = {"ring2d": ring2d(), "grid2d": grid2d()}


def test_covered_counts_modes_with_a_good_point():
    mixture = Mixture(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), std=1.0)
    points = torch.tensor([[2.9, 0.0], [0.0, -2.0], [10.0, 3.1], [0.0, 9.0]])  # good, good, too far, good
    found = covered(points, mixture)
    assert (found.modes, found.of, found.good) == (2, 3, 0.75)


def test_the_target_itself_covers_all_modes_and_is_as_good_as_theory_says():
    for mixture in (ring(), grid()):
        found = covered(mixture.sample(20_000, torch.Generator().manual_seed(0)), mixture)
        assert found.modes == found.of
        assert found.good == pytest.approx(1 - math.exp(-(3**2) / 2), abs=0.003)  # a Rayleigh distance


@pytest.mark.parametrize("shape", [(3,), (0, 2), (4, 3)])
def test_what_is_no_batch_of_points_is_refused(shape):
    with pytest.raises(ValueError, match=r"points have shape .*; give \(n, 2\) with n at least 1"):
        covered(torch.zeros(shape), ring())


@pytest.mark.parametrize(("name", "modes"), [("ring2d", 8), ("grid2d", 25)])
def test_a_generator_of_points_is_judged_by_modes_and_good_points(name, modes):
    torch.manual_seed(0)
    sampler, data = Sampler(create("mlp", width=8, latent_dim=2)[0]), TOYS[name]
    assert can_judge(data)
    found = evaluate(sampler, data, 2500, seed=4, with_reference=True)
    drawn = judge_points(sampler.sample(2500, seed=4), data.mixture)
    assert found.values == drawn.values
    assert found.intervals == drawn.intervals
    kept = found.to_json()["metrics"]
    assert kept["modes"].keys() == kept["good"].keys() == {"value", "unit", "better", "n", "interval", "reference"}
    assert (kept["modes"]["unit"], kept["modes"]["reference"]) == (f"of {modes}", modes)
    assert kept["good"]["reference"] == pytest.approx(1 - math.exp(-4.5), abs=0.01)


def test_the_reference_is_of_points_that_training_does_not_see():
    data = TOYS["ring2d"]
    found = evaluate(Sampler(create("mlp", width=8)[0]), data, 400, seed=0, with_reference=True)
    seen = judge_points(data.batch(0, 400)[0], data.mixture).values
    assert found.reference["good"] != seen["good"]
