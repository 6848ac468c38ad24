"""Judges on outcomes that nobody ran: each rule gives each of its three verdicts, and failures count as the worst."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from poise.studies import Claim, Outcome, Trial
from poise.studies.claims import CLAIMS
from poise.studies.claims.bsn import DEPTHS, LEARNING_RATES
from poise.studies.claims.judging import by_seed, chosen_without, sided, slopes
from tests.studies.claims.conftest import made_up

By = Callable[[Trial], dict[str, float]]


def wobble(trial: Trial) -> float:
    """A little noise that is another for each run."""
    return 1 + 0.01 * ((7 * trial.seed + sum(map(ord, trial.arm))) % 5)


def judged_by_distance(better: Callable[[str], float]) -> tuple[By, By, By]:
    """Figures with which a claim on FD and IS holds, is turned round, and cannot be told."""

    def figures(factor: float, trial: Trial) -> dict[str, float]:
        return {"modes": 100.0, "score_digits": 100 / factor, "fd_digits": 100 * factor, "both": float("nan")}

    def parameters(trial: Trial) -> dict[str, float]:
        return {"both": 100 + better(trial.arm.removesuffix(", parameters"))}

    def holds(trial: Trial) -> dict[str, float]:
        if trial.work == "parameters":
            return parameters(trial)
        return figures(better(trial.arm) * wobble(trial), trial)

    def turned(trial: Trial) -> dict[str, float]:
        if trial.work == "parameters":
            return parameters(trial)
        return figures(wobble(trial) / better(trial.arm), trial)

    def open_(trial: Trial) -> dict[str, float]:
        if trial.work == "parameters":
            return parameters(trial)
        return figures(1 + 0.5 * ((trial.seed + len(trial.arm)) % 2) + 0.1 * trial.seed, trial)

    return holds, turned, open_


def after(arm: str, word: str) -> float:
    """The number after a word in an arm's name."""
    return float(arm.partition(word)[2].split(",")[0])


BY_DISTANCE: dict[str, Callable[[str], float]] = {
    "strict-sn": lambda arm: 1.0 if arm == "SN" else 3.0 if arm == "SN strict" else 1.5,
    "bssn": lambda arm: 1.0 if arm.startswith("B") else 2.0,
    "gamma": lambda arm: 2.0 if "γ" in arm else 1.0,
    "settings-a-f": lambda arm: 1.0 if arm.startswith("SN") else 2.0,
    "feature-maps": lambda arm: after(arm, "×") ** (-0.5 if arm.startswith("SN") else 0.5),
    "batch-and-width": lambda arm: after(arm, "×") ** -0.5 * (0.5 if "width" in arm else 1.0),
    "shared-embedding": lambda arm: {"gains per class": 3.0, "shared": 2.0, "shared, skip-z": 1.0}[arm],
    "r3gan": lambda arm: 1.0 if arm == "R3GAN" else 2.0,
}


@pytest.mark.parametrize("name", BY_DISTANCE)
def test_claims_on_samples_hold_fail_and_stay_open(name: str) -> None:
    claim = CLAIMS[name]
    found = [claim.judge(made_up(claim, figures)) for figures in judged_by_distance(BY_DISTANCE[name])]
    assert [one.verdict for one in found] == ["holds", "does not hold", "not decided"], [one.words for one in found]
    assert all(one.rows and one.words.endswith(".") for one in found)


def table(**columns: dict[str, float]) -> By:
    """Figures by the first part of an arm's name, with a little noise."""

    def figures(trial: Trial) -> dict[str, float]:
        found = next(of for arm, of in columns.items() if trial.arm.startswith(arm.replace("_", " ")))
        return {name: value * wobble(trial) for name, value in found.items()}

    return figures


def gradients(none: Callable[[int, float], float], sn: float) -> By:
    """Ratios to the bound by depth and rate."""

    def figures(trial: Trial) -> dict[str, float]:
        if trial.arm.startswith("CNN"):
            return {"gradient-bound/whole": 5.0}
        depth, rate = trial.changes["model.depth"], trial.changes["d_optimizer.lr"]
        return {"gradient-bound/whole": sn if "SN" in trial.arm else none(depth, rate) * wobble(trial)}

    return figures


def variances(drift: float, xavier: float, low: float) -> By:
    common = {"hidden_drift": 0.1, "lecun_low": low, "lecun_high": 0.8, "lecun": 0.5}

    def prefixed(**figures: float) -> dict[str, float]:
        return {f"weight-variance/{name}": value for name, value in (common | figures).items()}

    return table(
        none=prefixed(drift=1.0, hidden_drift=1.0, xavier=1.0),
        SN=prefixed(drift=drift, xavier=0.5),
        BSN=prefixed(drift=drift, xavier=xavier),
    )


def spectra(sn: float, wn: float) -> By:
    def both(spread: float) -> dict[str, float]:
        return {"spectra/spread/hidden": spread, "spectra/first/hidden": 0.1 / spread}

    return table(clipping=both(0.2), WN=both(wn), SN=both(sn))


def reconstructions(wn: float, bn: float, vanilla: float) -> By:
    def named(error: float, wander: float) -> dict[str, float]:
        return {"reconstruction/final": error, "reconstruction/first": 1.0, "reconstruction/wander": wander}

    return table(WN=named(wn, wn), BN=named(bn, bn), vanilla=named(vanilla, vanilla))


def deep(end: float) -> By:
    return lambda _: {"fd_digits": end, "untrained/fd_digits": 100.0}


def costs(sn: float, wgan_gp: float) -> By:
    def figures(trial: Trial) -> dict[str, float]:
        found = {"none": 1.0, "sn": sn, "wgan_gp": wgan_gp, "sn_ratio": sn, "wgan_gp_ratio": wgan_gp}
        return {name: value * (1 + 0.004 * (trial.seed - 2)) for name, value in found.items()}

    return figures


def truncations(plain: float, orthogonal: float, middle: float) -> By:
    """Gains of IS at half a σ, and FD in the middle of the curve relative to both ends."""

    def figures(trial: Trial) -> dict[str, float]:
        gain = (plain if trial.arm == "plain" else orthogonal) * wobble(trial)
        found = {f"truncation/is/{name}": 2.0 for name in ("0.3", "0.7", "1", "1.4", "2", "full")}
        found |= {f"truncation/fd/{name}": middle for name in ("0.5", "0.7", "1", "1.4", "2")}
        return found | {"truncation/is/0.5": 2.0 * gain, "truncation/fd/0.3": 100.0, "truncation/fd/full": 100.0}

    return figures


def collapses(base: float, clamped: float, strong: float, modes: float, jump: float) -> By:
    def named(when: float, best: float) -> dict[str, float]:
        found = {"collapse": when, "best": best, "g_growth": 5.0, "d_growth": 2.0, "g_jump": jump, "d_jump": jump}
        return {f"sigma-history/{name}": value for name, value in found.items()}

    def figures(trial: Trial) -> dict[str, float]:
        when, best = {
            "base": (base, 500.0),
            "σ₀ clamped": (clamped, 500.0),
            "R1, γ = 1": (2.0, 400.0),
            "R1, γ = 10": (strong, modes),
        }[trial.arm]
        return named(when, best * wobble(trial))

    return figures


def one_per_class(score: float, distance: float) -> By:
    return lambda trial: {
        "is_one": score,
        "is_real": 800.0 * wobble(trial),
        "fd_one": distance * wobble(trial),
        "fd_real": 10.0,
    }


def growing(depth: int, rate: float) -> float:
    return float(depth) * rate * 1e4


CASES: list[tuple[str, By, str]] = [
    ("gradients-bounded", gradients(growing, 0.5), "holds"),
    ("gradients-bounded", gradients(lambda *_: 0.3, 0.5), "does not hold"),
    ("gradients-bounded", gradients(growing, 1.5), "does not hold"),
    ("gradients-bounded", gradients(lambda *_: 3.0, 0.5), "not decided"),
    ("variance-held", variances(0.1, 0.2, 0.5), "holds"),
    ("variance-held", variances(2.0, 0.2, 0.5), "does not hold"),
    ("variance-held", variances(0.1, 0.2, 0.1), "does not hold"),
    ("variance-held", variances(1.0, 0.2, 0.5), "not decided"),
    ("spectrum", spectra(0.6, 0.3), "holds"),
    ("spectrum", spectra(0.3, 0.6), "does not hold"),
    ("spectrum", spectra(0.4, 0.4), "not decided"),
    ("wn-reconstruction", reconstructions(0.8, 1.0, 1.2), "holds"),
    ("wn-reconstruction", reconstructions(1.0, 0.8, 1.2), "does not hold"),
    ("wn-reconstruction", reconstructions(1.0, 1.0, 1.2), "not decided"),
    ("wn-21-layers", deep(40.0), "holds"),
    ("wn-21-layers", deep(120.0), "does not hold"),
    ("wn-21-layers", deep(70.0), "not decided"),
    ("step-cost", costs(1.05, 1.9), "holds"),
    ("step-cost", costs(1.05, 1.3), "does not hold"),
    ("step-cost", costs(1.3, 1.9), "does not hold"),
    ("step-cost", costs(1.10, 1.9), "not decided"),
    ("truncation", truncations(1.2, 1.5, 50.0), "holds"),
    ("truncation", truncations(0.8, 0.9, 50.0), "does not hold"),
    ("truncation", truncations(1.2, 1.5, 150.0), "does not hold"),
    ("truncation", truncations(1.2, 1.2, 50.0), "not decided"),
    ("collapse", collapses(0.4, 0.8, 2.0, 200.0, 5.0), "holds"),
    ("collapse", collapses(0.4, 2.0, 2.0, 200.0, 5.0), "does not hold"),
    ("collapse", collapses(0.4, 0.8, 0.6, 200.0, 5.0), "does not hold"),
    ("collapse", collapses(2.0, 2.0, 2.0, 200.0, 5.0), "not decided"),
    ("one-per-class", one_per_class(990.0, 400.0), "holds"),
    ("one-per-class", one_per_class(700.0, 400.0), "does not hold"),
    ("one-per-class", one_per_class(990.0, 5.0), "does not hold"),
]


@pytest.mark.parametrize(("name", "figures", "verdict"), CASES)
def test_claims_on_measures_are_judged_by_their_rules(name: str, figures: By, verdict: str) -> None:
    found = CLAIMS[name].judge(made_up(CLAIMS[name], figures))
    assert found.verdict == verdict, found.words
    assert found.rows


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_claim_whose_every_run_failed_is_judged_and_never_holds(claim: Claim) -> None:
    assert claim.judge(made_up(claim, lambda _: {}, failed=lambda _: True)).verdict != "holds"


def drawable() -> list[tuple[str, By]]:
    cases: dict[str, By] = {name: figures for name, figures, _ in reversed(CASES)}
    return [*cases.items(), *((name, judged_by_distance(better)[0]) for name, better in BY_DISTANCE.items())]


@pytest.mark.parametrize(("name", "figures"), drawable())
def test_a_figure_is_drawn_and_says_how_many_seeds(name: str, figures: By, tmp_path: Any) -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    figure = figure_module.Figure(figsize=(7, 4))
    arms = made_up(CLAIMS[name], figures)
    curves = {"gradient-bound": [(0, 0.5), (60, 2.0)], "weight-variance/convs.0": [(0, 0.3), (100, 0.5)]}
    curves |= {"spectrum/convs.0": [(1, 1.0), (2, 0.5)], "reconstruction": [(40, 0.3), (80, 0.2)]}
    curves |= {"sigma/G": [(5, 1.0), (10, 3.0)], "sigma/D": [(5, 1.0), (10, 2.0)], "modes": [(44, 100.0)]}
    curves |= {"truncation/is": [(300, 2.0)], "truncation/fd": [(300, 90.0)]}
    shown = {
        arm: [Outcome(one.trial, one.status, "", 10.0, one.figures, curves) for one in of] for arm, of in arms.items()
    }
    CLAIMS[name].draw(shown, figure)
    figure.savefig(tmp_path / "figure.png", dpi=20)
    assert "seeds" in figure.get_suptitle()
    failed = made_up(CLAIMS[name], figures, failed=lambda _: True)
    CLAIMS[name].draw(failed, figure_module.Figure(figsize=(7, 4)))  # nothing to show breaks nothing
    assert all(axes.get_ylabel() for axes in figure.axes[:1])


def test_each_data_set_of_the_published_sweep_is_judged_by_itself() -> None:
    """A worse BSSN on one of three is not hidden by the others, however large their distances are."""

    def figures(trial: Trial) -> dict[str, float]:
        is_worse = trial.arm.startswith("CelebA, B") or ("B" not in trial.arm and not trial.arm.startswith("CelebA"))
        fid = (1000 if trial.recipe == "bssn-stl10" else 10) * (2 if is_worse else 1) * wobble(trial)
        return {"fid": fid, "is": 1e4 / fid}

    arms = made_up(CLAIMS["bssn"], figures, budget="paper")
    found = CLAIMS["bssn"].judge(arms)
    parts = found.words.partition(". The scale")[0]
    verdicts = [(part.split(", ")[0], part.rpartition(": ")[2]) for part in parts.split("; ")]
    assert found.verdict == "does not hold"
    assert verdicts == [
        *[(f"ln {name}", "holds") for name in ("FD", "FD", "IS", "IS")],
        *[("STL-10", "holds")] * 4,
        *[("CelebA", "does not hold")] * 4,
    ]
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(7, 4))
    CLAIMS["bssn"].draw(arms, figure)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["FD", "FD, STL-10", "FD, CelebA"]


def test_a_failed_run_counts_as_the_worst_of_its_claim() -> None:
    claim = CLAIMS["gamma"]
    arms = made_up(
        claim, lambda trial: {"fd_digits": 10.0 + trial.seed}, failed=lambda t: t.arm == "SN" and t.seed == 2
    )
    assert by_seed(arms, "SN", "fd_digits") == {0: 10.0, 1: 11.0, 2: 14.0, 3: 13.0, 4: 14.0}


def test_four_seeds_that_agree_decide_nothing() -> None:
    assert sided("", [-1.0, -1.1, -0.9, -1.0], negative=True).verdict == "not decided"
    assert sided("", [-1.0, -1.1, -0.9, -1.0, -1.05], negative=True).verdict == "holds"
    assert sided("", [-1.0, -1.1, -0.9, -1.0, -1.05], negative=False).verdict == "does not hold"


def test_what_is_chosen_by_the_other_seeds_does_not_flatter() -> None:
    # Seed 0 is lucky with b; the others say a.
    found = chosen_without({"a": {0: 5.0, 1: 1.0, 2: 1.0}, "b": {0: 0.0, 1: 4.0, 2: 4.0}})
    assert found[0] == 5.0
    assert chosen_without({"a": {0: 1.0}, "b": {0: 2.0}}) == {}


def test_slopes_are_those_of_lines() -> None:
    by_x = {x: {seed: 3.0 + (seed - 1) * x for seed in range(3)} for x in (-1.0, 0.0, 1.0, 2.0)}
    assert slopes(by_x) == pytest.approx({0: -1.0, 1: 0.0, 2: 1.0})


def test_depths_and_rates_of_the_made_up_gradients_are_those_of_the_grid() -> None:
    assert growing(DEPTHS[-1], LEARNING_RATES[-1]) > 1 > 0
    assert math.log(growing(16, 1e-2) / growing(4, 1e-2)) == pytest.approx(math.log(4))
