"""The shipped claims as data: every grid can be run, runs are shared, and the miniature fits into its time."""

from __future__ import annotations

import pytest

from poise.studies import Claim, Trial
from poise.studies.claim import BUDGETS
from poise.studies.claims import CLAIMS
from poise.studies.claims.costs import estimated_seconds, gpu_hours
from poise.studies.claims.settings import METHODS, MINI, SETTINGS, cnn
from poise.studies.measures import MEASURES, WORK
from poise.studies.study import distinct
from poise.training.run import build

MINUTES = 120
"""one core's, for all miniature grids together: half of the two hours that they may take on two cores"""
EACH_CLAIM = pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)


def first_of_each_arm(trials: list[Trial]) -> list[Trial]:
    found: dict[str, Trial] = {}
    for trial in trials:
        found.setdefault(trial.arm, trial)
    return list(found.values())


def test_the_seventeen_claims_are_there_each_under_its_name() -> None:
    assert sorted(claim.number for claim in CLAIMS.values()) == list(range(1, 18))
    assert all(name == claim.name for name, claim in CLAIMS.items())


@EACH_CLAIM
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_arm_resolves_and_is_measured_by_what_there_is(claim: Claim, budget: str) -> None:
    trials = claim.grids[budget]()
    assert trials
    for trial in first_of_each_arm(trials):
        recipe = trial.resolved()
        assert recipe.steps >= 1
        assert set(trial.measures) <= set(MEASURES)
        assert trial.work == "train" or trial.work in WORK


@EACH_CLAIM
def test_arms_have_their_own_runs_and_each_seed_once(claim: Claim) -> None:
    seeds: dict[str, list[int]] = {}
    runs: dict[str, str] = {}
    for trial in claim.grids["mini"]():
        seeds.setdefault(trial.arm, []).append(trial.seed)
        runs[trial.arm] = trial.identity if trial.seed == 0 else runs[trial.arm]
    assert all(sorted(set(of)) == sorted(of) for of in seeds.values())
    same = len(runs) - len(set(runs.values()))
    assert same == (2 if claim.name == "bssn" else 0)  # (B)SSN at s=1 is (B)SN at the first rates


def test_the_miniature_fits_into_its_time_and_shares_runs() -> None:
    trials = [trial for claim in CLAIMS.values() for trial in claim.grids["mini"]()]
    runs = distinct(trials)
    minutes = sum(map(estimated_seconds, runs)) / 60
    assert minutes <= MINUTES, f"{len(runs)} runs are estimated at {minutes:.0f} minutes"
    assert len(runs) < 0.8 * len(trials)


@EACH_CLAIM
def test_hours_of_the_published_grid_are_those_of_its_runs(claim: Claim) -> None:
    assert claim.gpu_hours == pytest.approx(gpu_hours(distinct(claim.grids["paper"]())), rel=0.02)
    assert claim.estimated_from


def test_the_published_sweep_has_19_scales_both_ways_with_five_seeds() -> None:
    arms = [trial.arm for trial in CLAIMS["bssn"].grids["paper"]()]
    for way in ("SSN", "BSSN"):
        swept = [arm for arm in arms if arm.startswith(f"{way} s=")]
        assert (len(swept), len(set(swept))) == (95, 19)


def test_settings_are_the_papers() -> None:
    table = {name: (s.d_rate, s.beta1, s.beta2, s.n_dis) for name, s in SETTINGS.items()}
    assert table == {
        "A": (1e-4, 0.5, 0.9, 5),
        "B": (1e-4, 0.5, 0.999, 1),
        "C": (2e-4, 0.5, 0.999, 1),
        "D": (1e-3, 0.5, 0.9, 5),
        "E": (1e-3, 0.5, 0.999, 5),
        "F": (1e-3, 0.9, 0.999, 5),
    }
    recipe = next(t for t in CLAIMS["settings-a-f"].grids["paper"]() if t.arm == "SN, F").resolved()
    assert (recipe.d_optimizer.lr, recipe.d_optimizer.beta1, recipe.n_dis) == (1e-3, 0.9, 5)
    assert (recipe.data.name, recipe.loss, recipe.d_norm.name) == ("cifar10", "non-saturating", "sn")


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_one_thing_at_a_time(method: str) -> None:
    recipe = cnn(MINI, method, "A", 0).resolved()
    _, discriminator, _ = build(recipe)
    kinds = {type(layer).__name__ for layer in discriminator.modules()}
    assert ("BatchNorm2d" in kinds, "GroupNorm" in kinds) == (method == "BN", method == "LN")
    assert (recipe.loss == "wasserstein") == (method in ("clipping", "WGAN-GP"))
    assert bool(recipe.penalties) == (method in ("GAN-GP", "WGAN-GP", "orthonormal"))
    assert (recipe.d_norm.name != "none") == (method in ("clipping", "WN", "SN", "BSN"))
