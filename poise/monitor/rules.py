"""One rule for each failure: from the history to a finding, or nothing. Pure functions; thresholds are given to them.

What the past is compared with is the run's own median and spread (``Series.usual``, ``Series.deviation``), so that a
rule holds for losses and networks of any scale; a few signs need no past.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from poise.monitor.history import WINDOW, History, detrended
from poise.monitor.thresholds import Thresholds
from poise.monitor.verdict import Finding

Rule = Callable[[History, Thresholds], Finding | None]
PLAYERS = {"G": "the generator", "D": "the discriminator"}


def spectral_explosion(history: History, limits: Thresholds) -> Finding | None:
    """σ₀ of a layer grows far beyond its past: what precedes collapse (Brock et al. 2019, section 4.1)."""
    found = []
    for layer, sigma in history.layers("sigma", limits.warm_up):
        growth = _ratio(sigma.now, sigma.usual())
        if growth >= limits.sigma_growth and sigma.deviation() >= limits.deviations:
            said = f"σ₀ of {layer} grew {growth:.1f}× in {sigma.steps_since(1.5)} steps, to {sigma.now:.3g}"
            found.append(
                _finding("spectral-explosion", "sigma", layer, growth, limits.sigma_growth, f"{said} (limit {{}}×)")
            )
        since_start = _ratio(sigma.now, sigma.start or sigma.now)
        if since_start >= limits.sigma_growth_since_start:
            said = f"σ₀ of {layer} is {since_start:.1f}× what it was at the start, {sigma.now:.3g} (limit {{}}×)"
            found.append(
                _finding("spectral-explosion", "sigma", layer, since_start, limits.sigma_growth_since_start, said)
            )
    for layer, sigma in history.layers("sigma"):
        used = history.get("effective_sigma", layer)
        value = sigma.now if used is None else used.now
        if value >= limits.sigma_largest:
            said = f"σ₀ of {layer} is {value:.3g} (limit {{}})"
            found.append(_finding("spectral-explosion", "sigma", layer, value, limits.sigma_largest, said))
    return _worst(found)


def spectral_collapse(history: History, limits: Thresholds) -> Finding | None:
    """All singular values of a layer but the first are lost (Liu et al. 2019, arXiv 1908.10999)."""
    found = []
    for layer, rank in history.layers("stable_rank", limits.warm_up):
        share = _ratio(rank.now, max(rank.start or 0.0, rank.usual()))
        if share <= limits.rank_decay and rank.now <= limits.rank_smallest:
            said = f"the stable rank of {layer} fell to {rank.now:.3g}, {share:.2g} of what it was (limit {{}})"
            found.append(_finding("spectral-collapse", "stable_rank", layer, share, limits.rank_decay, said))
    return _worst(found)


def exploding_gradients(history: History, limits: Thresholds) -> Finding | None:
    """A player's whole gradient is many times its past, or beyond any (Lin et al. 2021, section 3)."""
    found = []
    for player, total in history.layers("gradient_total"):
        layer, whose = _steepest(history, player, limits, up=True), PLAYERS.get(player, player)
        if total.now >= limits.gradient_largest:
            said = f"the gradient of {whose} is {total.now:.3g} (limit {{}}), most of it in {layer}"
            found.append(
                _finding("exploding-gradients", "gradient_norm", layer, total.now, limits.gradient_largest, said)
            )
        if len(total.past) < limits.warm_up:
            continue
        growth = _ratio(total.now, total.usual())
        if growth >= limits.gradient_growth and total.deviation() >= limits.deviations:
            said = f"the gradient of {whose} is {growth:.1f}× its past (limit {{}}×), most so in {layer}"
            found.append(_finding("exploding-gradients", "gradient_norm", layer, growth, limits.gradient_growth, said))
    return _worst(found)


def vanishing_gradients(history: History, limits: Thresholds) -> Finding | None:
    """A layer's gradient, a player's whole one, or a layer's output has all but gone (Lin et al. 2021, section 4).

    A discriminator that has told all samples apart has no gradient either; that is another failure's sign.
    """
    found = []
    won = _has_won(history, limits)
    for player, total in history.layers("gradient_total"):
        if total.now <= limits.gradient_smallest and not (player == "D" and won):
            layer = _steepest(history, player, limits, up=False)
            said = f"the gradient of {PLAYERS.get(player, player)} is {total.now:.3g} (limit {{}}), least in {layer}"
            found.append(
                _finding("vanishing-gradients", "gradient_norm", layer, total.now, limits.gradient_smallest, said)
            )
    for layer, norm in history.layers("gradient_norm", limits.warm_up):
        share = _ratio(norm.now, norm.usual())
        gone = share <= limits.gradient_decay and norm.deviation() <= -limits.deviations
        if gone and not (layer.startswith("D.") and won):
            said = f"the gradient of {layer} fell to {norm.now:.3g}, {share:.2g} of its past (limit {{}})"
            found.append(_finding("vanishing-gradients", "gradient_norm", layer, share, limits.gradient_decay, said))
    for layer, hidden in history.layers("hidden_variance"):
        share = _ratio(hidden.now, hidden.usual()) if len(hidden.past) >= limits.warm_up else 1.0
        fell = share <= limits.hidden_decay
        if fell or hidden.now <= limits.hidden_smallest:
            value, limit = (share, limits.hidden_decay) if fell else (hidden.now, limits.hidden_smallest)
            fallen = f", {share:.2g} of its past" if fell else ""
            said = f"the output of {layer} has a variance of {hidden.now:.3g}{fallen} (limit {{}})"
            found.append(_finding("vanishing-gradients", "hidden_variance", layer, value, limit, said))
    return _worst(found)


def discriminator_overpowers(history: History, limits: Thresholds) -> Finding | None:
    """D tells every sample, and more and more surely: its judgement no longer says where to go."""
    gap, ranking, saturation = (history.get(signal) for signal in ("logit_gap", "ranking", "saturation"))
    growth = 0.0
    if gap is not None and len(gap.past) >= limits.warm_up:
        growth = _ratio(gap.now, gap.usual()) if gap.now > 0 and gap.deviation() >= limits.deviations else 0.0
    if ranking is not None:
        if ranking.now < limits.separation:
            return None
        told = f"the discriminator ranks {ranking.now:.1%} of pairs rightly"
        if saturation is not None and saturation.now >= limits.saturation:
            said = f"{told} and its sigmoid is saturated for {saturation.now:.0%} of samples (limit {{}})"
            return _finding("discriminator-overpowers", "saturation", "", saturation.now, limits.saturation, said)
        if growth >= limits.gap_growth:
            said = f"{told}, and the gap of the mean logits is {growth:.1f}× its past (limit {{}}×)"
            return _finding("discriminator-overpowers", "logit_gap", "", growth, limits.gap_growth, said)
        return None
    if gap is not None and gap.now >= limits.gap_largest and growth >= limits.gap_growth:
        said = f"the gap of the mean logits is {gap.now:.3g}, {growth:.1f}× its past (limit {{}}×)"
        return _finding("discriminator-overpowers", "logit_gap", "", growth, limits.gap_growth, said)
    loss = history.get("d_loss", past=limits.warm_up)
    if loss is not None and 0 <= loss.now <= limits.d_loss_smallest and min(loss.past) >= 0:
        said = f"the discriminator's loss is {loss.now:.3g} (limit {{}})"
        return _finding("discriminator-overpowers", "d_loss", "", loss.now, limits.d_loss_smallest, said)
    return None


def discriminator_blind(history: History, limits: Thresholds) -> Finding | None:
    """D says the same of all samples, real or fake: G is told nothing."""
    ranking, spread = history.get("ranking"), history.get("real_logit_std")
    if spread is None or (ranking is not None and abs(ranking.now - 0.5) > limits.blindness):
        return None
    gap, logit = history.get("logit_gap"), history.get("real_logit")
    if ranking is None and gap is not None and logit is not None and abs(gap.now) > spread.now / 4:
        return None
    if spread.now <= limits.logit_spread:
        said = f"the discriminator's logits have a standard deviation of {spread.now:.3g} (limit {{}})"
        return _finding("discriminator-blind", "real_logit_std", "", spread.now, limits.logit_spread, said)
    if len(spread.past) >= limits.warm_up:
        share = _ratio(spread.now, spread.usual())
        if share <= limits.logit_spread_decay and spread.deviation() <= -limits.deviations:
            said = f"the standard deviation of the discriminator's logits fell to {share:.2g} of its past (limit {{}})"
            return _finding("discriminator-blind", "real_logit_std", "", share, limits.logit_spread_decay, said)
    return None


def mode_collapse(history: History, limits: Thresholds) -> Finding | None:
    """Fakes are more alike than real samples are, or lie away from ever more of them."""
    found = []
    for signal in ("diversity", "feature_diversity"):
        spread = history.get(signal, past=limits.warm_up)
        if spread is None:
            continue
        where = "" if signal == "diversity" else " in the discriminator's features"
        share = _ratio(spread.now, spread.usual())
        if signal == "diversity" and spread.now <= limits.diversity:
            said = f"fakes are {spread.now:.2g} as far apart as real samples (limit {{}})"
            found.append(_finding("mode-collapse", signal, "", spread.now, limits.diversity, said))
        if share <= limits.diversity_decay and spread.deviation() <= -limits.deviations:
            said = f"the distance between fakes{where} fell to {share:.2g} of its past (limit {{}})"
            found.append(_finding("mode-collapse", signal, "", share, limits.diversity_decay, said))
    near = history.get("neighbours", past=limits.warm_up)
    if near is not None and near.now <= limits.neighbours:
        said = f"a fake's nearest fake is {near.now:.2g} as far as a real sample's nearest real one (limit {{}})"
        found.append(_finding("mode-collapse", "neighbours", "", near.now, limits.neighbours, said))
    coverage = history.get("coverage", past=limits.warm_up)
    if coverage is not None:
        growth = _ratio(coverage.now, coverage.usual())
        if growth >= limits.coverage_growth and coverage.deviation() >= limits.deviations:
            said = f"real samples lie {growth:.1f}× as far from their nearest fakes as before (limit {{}}×)"
            found.append(_finding("mode-collapse", "coverage", "", growth, limits.coverage_growth, said))
    fake, real = history.get("fake_logit_std", past=limits.warm_up), history.get("real_logit_std")
    if history.get("diversity") is None and fake is not None and real is not None:
        share = _ratio(fake.now, real.now)
        if share <= limits.fake_spread and real.now > limits.logit_spread:
            said = f"logits of fakes spread {share:.2g} as far as those of real samples (limit {{}})"
            found.append(_finding("mode-collapse", "fake_logit_std", "", share, limits.fake_spread, said))
    return _worst(found)


def oscillating(history: History, limits: Thresholds) -> Finding | None:
    """A loss or mean logit swings, slowly and ever more widely, or both logits circle together."""
    found = []
    for signal, swing in history.layers("swing", limits.warm_up):
        growth = _ratio(swing.now, swing.usual())
        if growth >= limits.swing_growth and _swings(detrended(history.windows[signal]), limits):
            said = f"{signal} swings {growth:.1f}× as widely as before (limit {{}}×)"
            found.append(_finding("oscillating", signal, "", growth, limits.swing_growth, said))
    real, fake = (history.windows.get(signal, []) for signal in ("real_logit", "fake_logit"))
    if len(real) == len(fake) == WINDOW:
        both = detrended([(r + f) / 2 for r, f in zip(real, fake, strict=True)])
        width = statistics.pstdev(both)
        times = _ratio(width, statistics.median(abs(r - f) for r, f in zip(real, fake, strict=True)))
        if width >= 1 and times >= limits.swing_of_both and _swings(both, limits):
            said = f"the mean logits of real and fake swing together, by {times:.1f}× their gap (limit {{}}×)"
            found.append(_finding("oscillating", "real_logit", "", times, limits.swing_of_both, said))
    return _worst(found)


RULES: dict[str, Rule] = {
    "spectral-explosion": spectral_explosion,
    "spectral-collapse": spectral_collapse,
    "exploding-gradients": exploding_gradients,
    "vanishing-gradients": vanishing_gradients,
    "discriminator-blind": discriminator_blind,
    "mode-collapse": mode_collapse,
    "discriminator-overpowers": discriminator_overpowers,
    "oscillating": oscillating,
}


def _has_won(history: History, limits: Thresholds) -> bool:
    ranking = history.get("ranking")
    return ranking is not None and ranking.now >= limits.separation


def _steepest(history: History, player: str, limits: Thresholds, up: bool) -> str:
    """The player's layer whose gradient left its past furthest; while there is no past, the largest (smallest)."""
    sign = 1 if up else -1
    own = {layer: one for layer, one in history.layers("gradient_norm") if layer.startswith(f"{player}.")}

    def rank(layer: str) -> tuple[bool, float]:
        one = own[layer]
        known = len(one.past) >= limits.warm_up
        return known, sign * (one.deviation() if known else one.now)

    return max(own, key=rank, default="")


def _finding(verdict: str, signal: str, layer: str, value: float, threshold: float, text: str) -> Finding:
    away = abs(math.log2(max(value, 1e-30) / threshold))
    confidence = 1 - 0.5 ** (1 + away)
    return Finding(verdict, signal, layer, value, threshold, text.format(f"{threshold:g}"), confidence)


def _worst(found: Iterable[Finding]) -> Finding | None:
    return max(found, key=lambda one: one.confidence, default=None)


def _ratio(value: float, other: float) -> float:
    return value / other if other > 0 else (1.0 if value == other else math.inf)


def _swings(values: Sequence[float], limits: Thresholds) -> bool:
    """Whether values (mean 0) cross from one side to the other often enough, and smoothly, unlike noise."""
    spread = statistics.pstdev(values)
    if spread == 0:
        return False
    changes = statistics.fmean((b - a) ** 2 for a, b in itertools.pairwise(values)) / spread**2
    sides = [value > 0 for value in values if abs(value) > spread / 2]
    crossings = sum(a != b for a, b in itertools.pairwise(sides))
    return changes <= limits.swing_smoothness and crossings >= limits.swings
