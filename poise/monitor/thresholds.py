"""Every number that the rules compare with, in one place, so that they can be set on some runs and tried on others."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Thresholds:
    """When a sign counts as a failure. Ratios are to the run's own median so far, the last few observations left out.

    A rule that compares with the past also asks that the change be ``deviations`` of the past's own spread, so that a
    signal which always swings widely is not taken for one that has broken out.

    Raises:
        ValueError: a number that is not above 0.
    """

    warm_up: int = 8
    """observations of the past before anything is compared with it"""
    patience: int = 2
    """observations in a row for which a sign has to hold"""
    learning: int = 40
    """observations of the past after which fakes that never came near the data, and come no nearer for as many, count
    as a failure, and so does a rank that falls; at most 64"""
    deviations: float = 6.0
    """robust standard deviations (1.4826 · MAD, of logarithms) by which a signal has to leave its past"""
    gradient_growth: float = 10.0
    """times the past's gradient norm: exploding"""
    gradient_largest: float = 300.0
    """gradient norm of a player that no past excuses"""
    update_growth: float = 3.0
    """times the past's step of the weights, ‖ΔW‖/‖W‖, in half of a player's layers: exploding"""
    update_growth_followed: float = 6.0
    """the same, where the player's gradient has grown as well and accounts for it"""
    update_drift: float = 1.36
    """times the step of a while ago, of both players at once, their geometric mean: exploding slowly"""
    update_drift_d: float = 1.45
    """the same of the discriminator alone, whose steps are the steadier"""
    hidden_fading: float = 0.8
    """of a hidden output's variance a while ago, in the generator, by which longer steps are what comes of it"""
    update_alone: float = 1.25
    """times the growth of the player's gradient by which that of its step is not accounted for by it"""
    gradient_decay: float = 0.02
    """of the past's gradient norm: vanishing"""
    gradient_smallest: float = 1e-7
    """gradient norm of a player below which nothing is learnt"""
    hidden_decay: float = 1e-3
    """of the past's hidden-output variance: the signal is lost on its way (Lin et al. 2021)"""
    hidden_smallest: float = 1e-7
    """hidden-output variance that no past excuses"""
    separation: float = 0.95
    """probability that D ranks a real sample above a fake one, from which it may overpower"""
    ahead: float = 0.9
    """the same, from which D is the cause where fakes never came near the data"""
    saturation: float = 0.9
    """share of samples whose sigmoid is within 1% of its end, from which a separating D leaves G no gradient"""
    gap_growth: float = 4.0
    """times the past's gap between mean logits, from which a separating D runs away"""
    gap_in_spreads: float = 10.0
    """gap between mean logits over their standard deviation (d′), from which a separating D is too sure"""
    gap_in_spreads_grown: float = 5.0
    """the same, where the gap has left its past by ``gap_deviations`` as well"""
    gap_deviations: float = 3.5
    """robust standard deviations by which it has to"""
    gap_largest: float = 10.0
    """gap between mean logits, where their spread is not known, beyond which D overpowers"""
    d_loss_smallest: float = 0.01
    """loss of D, of those that cannot be negative, below which it has nothing left to learn"""
    blindness: float = 0.03
    """how near to one half the probability of a right ranking is, in a D that may be blind"""
    misranking: float = 0.2
    """probability of a right ranking below which D, if it was no better than chance before, is led by G"""
    logit_spread: float = 0.01
    """standard deviation of real logits below which D says the same of all; a tenth of it, whatever the ranking"""
    logit_spread_decay: float = 0.05
    """of the past's standard deviation, likewise"""
    diversity: float = 0.3
    """mean distance between fakes, over that between real samples, below which G has not learnt to vary"""
    diversity_decay: float = 0.85
    """of the past's: modes are lost"""
    diversity_deviations: float = 4.0
    """robust standard deviations (at least 3%) by which it has to leave its past"""
    feature_decay: float = 0.5
    """of the past's mean distance between fakes in D's features, likewise"""
    diversity_drift: float = 0.88
    """of the past's, in the median of the last 24 observations: they are being lost slowly"""
    drift_deviations: float = 1.5
    """robust standard deviations (of single observations, at least 2%) by which that median has to leave its past"""
    diversity_thinned: float = 0.93
    """of the past's, in the median of the last 12 observations: modes are being lost, if coverage agrees"""
    coverage_thinned: float = 1.3
    """times the coverage that a quarter of the past was better than, in the same median, for it to agree"""
    diversity_thinning: float = 0.94
    """the same, if coverage and the gap between mean logits agree"""
    thinning_deviations: float = 1.0
    """robust standard deviations (of single observations, at least 2%) by which it then has to leave its past"""
    coverage_thinning: float = 1.07
    """times the coverage that a quarter of the past was better than, for both to agree"""
    gap_thinning: float = 1.2
    """times the gap between mean logits that a quarter of the past was below, likewise"""
    features_thinning: float = 1.2
    """fourth root of coverage's growth, over the shares of the past's distance between fakes, seen and in D's features,
    for the three to agree"""
    diversity_fall: float = 0.88
    """of the 12 observations before in which fakes were the furthest apart, in the median of the last 12: modes are
    being lost, however slowly"""
    fall_deviations: float = 4.0
    """robust standard deviations (at least 2%) of the past until then by which it then has to be left"""
    neighbours: float = 0.1
    """distance from a fake to its nearest fake, over the same of real samples, below which G repeats itself"""
    coverage_growth: float = 4.0
    """times the past's distance from real samples to their nearest fakes"""
    coverage: float = 4.5
    """distance from real samples to their nearest fakes, over the nearest real ones, from which they are far off"""
    copies: float = 0.05
    """share of real samples that are copies of another one, above 1.5× the past's: the data lose their modes"""
    real_change: float = 3.0
    """times (or the inverse of it) the past's largest entry of the real samples, beyond which no fakes are compared,
    and half as many deviations make a gradient explode"""
    fake_spread: float = 0.02
    """standard deviation of fake logits over that of real ones, below which all fakes are one, images not being seen"""
    sigma_growth: float = 4.0
    """times the past's σ₀ of a layer"""
    sigma_growth_moved: float = 2.5
    """the same, where the steps of the player's weights have grown by ``update_growth`` too"""
    sigma_growth_since_start: float = 10.0
    """times σ₀ of a layer at the start"""
    sigma_surge: float = 1.5
    """times σ₀ of a layer ten points of its past ago, from which it may grow faster than ever before"""
    sigma_surge_power: float = 6.0
    """power of its fastest growth over as many points before that it then has to reach as well"""
    sigma_largest: float = 1e4
    """σ₀ of a weight that is used as it is"""
    rank_decay: float = 0.3
    """of the stable rank at the start, or of its past"""
    rank_smallest: float = 1.5
    """stable rank that has to be reached as well: all but one direction are lost"""
    rank_small: float = 4.0
    """the same of a rank that falls below its past, not only slowly below its start"""
    swing_growth: float = 3.0
    """times the past's standard deviation of a loss or mean logit"""
    swing_smoothness: float = 0.6
    """mean squared change between observations over the variance (von Neumann's ratio; 2 for noise): slow swings"""
    swing_of_both: float = 5.0
    """times the gap between mean logits by which both swing together, and at least 1: the equilibrium is circled"""
    turning: float = 0.75
    """ranking that a tenth of the past was above, while another was below ½ and fakes are far off: D has it right and
    wrong by turns"""
    ranking_swing: float = 0.5
    """fall of the probability of a right ranking, and rise after it, within 24 observations: D is led around"""
    swings: int = 4
    """times that the signal crosses from one side to the other"""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; a threshold is above 0")
