"""Rules for how the two players stand to each other: by logits, losses, and fakes beside real samples."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from poise.monitor.history import WINDOW, History, Series, detrended, ratio
from poise.monitor.thresholds import Thresholds
from poise.monitor.verdict import Finding, finding, worst


def discriminator_overpowers(history: History, limits: Thresholds) -> Finding | None:
    """D tells every sample, and more and more surely: its judgement no longer says where to go.

    So it is, too, where it has told them all along and fakes have never come near the data.
    """
    gap, ranking, saturation = (history.get(signal) for signal in ("logit_gap", "ranking", "saturation"))
    growth = 0.0
    if gap is not None and len(gap.past) >= limits.warm_up:
        growth = ratio(gap.now, gap.usual()) if gap.now > 0 and gap.deviation() >= limits.deviations else 0.0
    if ranking is not None:
        told = f"the discriminator ranks {ranking.now:.1%} of pairs rightly"
        far = _far_off(history, limits) if _is_ahead(ranking, limits) else None
        if far is not None:
            return replace(far, verdict="discriminator-overpowers", text=f"{told}, as before, while {far.text}")
        if ranking.now < limits.separation:
            return None
        if saturation is not None and saturation.now >= limits.saturation:
            said = f"{told} and its sigmoid is saturated for {saturation.now:.0%} of samples (limit {{}})"
            return finding("discriminator-overpowers", "saturation", "", saturation.now, limits.saturation, said)
        if growth >= limits.gap_growth:
            said = f"{told}, and the gap of the mean logits is {growth:.1f}× its past (limit {{}}×)"
            return finding("discriminator-overpowers", "logit_gap", "", growth, limits.gap_growth, said)
        if gap is not None and len(gap.past) >= limits.warm_up:
            spreads, has_grown = _gap_in_spreads(history), gap.deviation() >= limits.gap_deviations
            limit = limits.gap_in_spreads_grown if has_grown else limits.gap_in_spreads
            if spreads >= limit:
                said = f"{told}, and the mean logits lie {spreads:.1f} of their standard deviations apart (limit {{}})"
                return finding("discriminator-overpowers", "logit_gap", "", spreads, limit, said)
        return None
    if gap is not None and gap.now >= limits.gap_largest and growth >= limits.gap_growth:
        said = f"the gap of the mean logits is {gap.now:.3g}, {growth:.1f}× its past (limit {{}}×)"
        return finding("discriminator-overpowers", "logit_gap", "", growth, limits.gap_growth, said)
    loss = history.get("d_loss", past=limits.warm_up)
    if loss is not None and 0 <= loss.now <= limits.d_loss_smallest and min(loss.past) >= 0:
        said = f"the discriminator's loss is {loss.now:.3g} (limit {{}})"
        return finding("discriminator-overpowers", "d_loss", "", loss.now, limits.d_loss_smallest, said)
    return None


def discriminator_blind(history: History, limits: Thresholds) -> Finding | None:
    """D says the same of all samples, or what is no better than chance: G is told nothing, or the wrong way.

    Near the equilibrium it is chance as well; only while fakes are far off it should not be.
    """
    ranking, spread = history.get("ranking"), history.get("real_logit_std")
    led = ranking is not None and len(ranking.past) >= limits.warm_up and ranking.usual() <= 0.5
    if ranking is not None and led and ranking.now <= limits.misranking:
        said = f"the discriminator ranks {ranking.now:.1%} of pairs rightly (limit {{}}): it holds fakes for real"
        return finding("discriminator-blind", "ranking", "", ranking.now, limits.misranking, said)
    far = _far_off(history, limits)
    if far is not None and ranking is not None and abs(ranking.usual() - 0.5) <= limits.blindness:
        if _has_turned(ranking, limits):
            return None
        told = f"the discriminator ranks {ranking.usual():.1%} of pairs rightly, while {far.text}"
        return replace(far, verdict="discriminator-blind", text=told)
    if spread is None:
        return None
    widest = max([spread.now, *(abs(one.now) for one in _of(history, "fake_logit_std", "logit_gap"))])
    if widest <= limits.logit_spread / 10:
        said = f"the discriminator's logits differ by {widest:.3g} at most (limit {{}})"
        return finding("discriminator-blind", "real_logit_std", "", widest, limits.logit_spread / 10, said)
    if ranking is not None and abs(ranking.now - 0.5) > limits.blindness:
        return None
    gap, logit = history.get("logit_gap"), history.get("real_logit")
    if ranking is None and gap is not None and logit is not None and abs(gap.now) > spread.now / 4:
        return None
    if spread.now <= limits.logit_spread:
        said = f"the discriminator's logits have a standard deviation of {spread.now:.3g} (limit {{}})"
        return finding("discriminator-blind", "real_logit_std", "", spread.now, limits.logit_spread, said)
    if len(spread.past) >= limits.warm_up:
        share = ratio(spread.now, spread.usual())
        if share <= limits.logit_spread_decay and spread.deviation() <= -limits.deviations:
            said = f"the standard deviation of the discriminator's logits fell to {share:.2g} of its past (limit {{}})"
            return finding("discriminator-blind", "real_logit_std", "", share, limits.logit_spread_decay, said)
    return None


def mode_collapse(history: History, limits: Thresholds) -> Finding | None:
    """Fakes are more alike than they were, or lie away from ever more of the real samples.

    Or they never learnt to be otherwise, and nothing says that D is the cause. All of it is told by ratios to real
    samples, so nothing is said of real samples that have become other ones.
    """
    if real_samples_changed(history, limits):
        return None
    found = _modes_lost(history, limits) if _came_near(history, limits) else []
    near = history.get("neighbours", past=limits.warm_up)
    long = near is not None and (near.usual() >= 2 * limits.neighbours or len(near.past) >= limits.learning)
    if near is not None and long and near.now <= limits.neighbours:
        said = f"a fake's nearest fake is {near.now:.2g} as far as a real sample's nearest real one (limit {{}})"
        found.append(finding("mode-collapse", "neighbours", "", near.now, limits.neighbours, said))
    copies = history.get("copies", past=limits.warm_up)
    if copies is not None and copies.now >= limits.copies + 1.5 * copies.usual():
        said = f"{copies.now:.0%} of the real samples are copies of another one (limit {{}}), and G follows them"
        found.append(finding("mode-collapse", "copies", "", copies.now, limits.copies, said))
    fake, real = history.get("fake_logit_std", past=limits.warm_up), history.get("real_logit_std")
    if history.get("diversity") is None and fake is not None and real is not None:
        share = ratio(fake.now, real.now)
        if share <= limits.fake_spread and real.now > limits.logit_spread:
            said = f"logits of fakes spread {share:.2g} as far as those of real samples (limit {{}})"
            found.append(finding("mode-collapse", "fake_logit_std", "", share, limits.fake_spread, said))
    far, ranking = _far_off(history, limits), history.get("ranking")
    if far is not None and not (ranking is not None and (_is_ahead(ranking, limits) or _has_turned(ranking, limits))):
        found.append(far)
    return worst(found)


def _modes_lost(history: History, limits: Thresholds) -> list[Finding]:
    """Signs of modes that were there in the past: fakes less apart than before, or further from real samples."""
    found = []
    spread = history.get("diversity", past=limits.warm_up)
    if spread is not None:
        share = ratio(spread.now, spread.usual())
        if share <= limits.diversity_decay and spread.deviation(least=0.03) <= -limits.diversity_deviations:
            said = f"the distance between fakes fell to {share:.2g} of its past (limit {{}})"
            found.append(finding("mode-collapse", "diversity", "", share, limits.diversity_decay, said))
    features = history.get("feature_diversity", past=limits.warm_up)
    if features is not None:
        share = ratio(features.now, features.usual())
        if share <= limits.feature_decay and features.deviation() <= -limits.deviations:
            said = f"to the discriminator's features fakes are {share:.2g} as far apart as in the past (limit {{}})"
            found.append(finding("mode-collapse", "feature_diversity", "", share, limits.feature_decay, said))
    drifting, window = history.get("diversity", past=limits.learning), history.windows.get("diversity", ())
    if drifting is not None and len(window) == WINDOW:
        middle = statistics.median(window)
        share = ratio(middle, drifting.usual())
        if share <= limits.diversity_drift and drifting.deviation(middle, 0.02) <= -limits.drift_deviations:
            said = f"the distance between fakes has long been {share:.2g} of its past (limit {{}})"
            found.append(finding("mode-collapse", "diversity", "", share, limits.diversity_drift, said))
        share, deviation = drifting.fall(window[-WINDOW // 2 :], most=1.0)
        if share <= limits.diversity_fall and deviation <= -limits.fall_deviations:
            said = f"the distance between fakes has fallen to {share:.2g} of what it had long been (limit {{}})"
            found.append(finding("mode-collapse", "diversity", "", share, limits.diversity_fall, said))
    thinned = _thinned(history, limits)
    if thinned is not None:
        found.append(thinned)
    coverage = history.get("coverage", past=limits.warm_up)
    if coverage is not None:
        growth = ratio(coverage.now, coverage.usual())
        if growth >= limits.coverage_growth and coverage.deviation() >= limits.deviations:
            said = f"real samples lie {growth:.1f}× as far from their nearest fakes as before (limit {{}}×)"
            found.append(finding("mode-collapse", "coverage", "", growth, limits.coverage_growth, said))
    return found


def _thinned(history: History, limits: Thresholds) -> Finding | None:
    """Fakes that are more alike *and* further from real samples, in the medians of the last ``WINDOW // 2``.

    Signs that agree need be small only: less small ones of two, or of three, if D tells fakes more easily as well, or
    if they are more alike in its features.
    """
    series, middles = {}, {}
    for signal in ("diversity", "coverage", "logit_gap", "feature_diversity"):
        one, window = history.get(signal, past=limits.learning), history.windows.get(signal, ())
        if one is not None and len(window) == WINDOW:
            series[signal], middles[signal] = one, statistics.median(window[-WINDOW // 2 :])
    if not {"diversity", "coverage"} <= series.keys():
        return None
    spread = series["diversity"]
    share = ratio(middles["diversity"], spread.usual())
    growth = ratio(middles["coverage"], series["coverage"].tail(4, upper=False))
    said = f"fakes are {share:.2g} as far apart as in the past, and real samples {growth:.2g}× as far from them"
    if share <= limits.diversity_thinned and growth >= limits.coverage_thinned:
        said = f"{said} as they have been (limit {{}}×)"
        return finding("mode-collapse", "coverage", "", growth, limits.coverage_thinned, said)
    left = spread.deviation(middles["diversity"], 0.02) <= -limits.thinning_deviations
    if not left or share > limits.diversity_thinning:
        return None
    if "feature_diversity" in series:
        features = ratio(middles["feature_diversity"], series["feature_diversity"].usual())
        together = ratio(growth**0.25, share * features)
        if together >= limits.features_thinning:
            said = f"{said} as they have been, and {features:.2g} as far apart in D's features: {together:.2g}× in all"
            said = f"{said} (limit {{}}×)"
            return finding("mode-collapse", "diversity", "", together, limits.features_thinning, said)
    if "logit_gap" not in series or series["logit_gap"].tail(4, upper=False) <= 0:
        return None
    told = ratio(middles["logit_gap"], series["logit_gap"].tail(4, upper=False))
    if growth >= limits.coverage_thinning and told >= limits.gap_thinning:
        said = f"{said} (limit {{}}×) and {told:.2g}× as easily told as they have been"
        return finding("mode-collapse", "coverage", "", growth, limits.coverage_thinning, said)
    return None


def oscillating(history: History, limits: Thresholds) -> Finding | None:
    """A loss or mean logit swings, slowly and ever more widely; both logits circle together; D is right and wrong."""
    found = []
    far, judged = _far_off(history, limits), history.get("ranking")
    if far is not None and judged is not None and _has_turned(judged, limits):
        right, wrong = judged.tail(10, upper=True), judged.tail(10, upper=False)
        told = f"the discriminator has ranked {right:.0%} of pairs rightly and, at other times, {wrong:.0%}"
        found.append(replace(far, verdict="oscillating", text=f"{told}, while {far.text}"))
    ranking, ranked = history.get("ranking", past=WINDOW), history.windows.get("ranking", [])
    if ranking is not None and len(ranked) == WINDOW:
        depth = _fall_and_rise(
            [statistics.median(three) for three in zip(ranked, ranked[1:], ranked[2:], strict=False)]
        )
        if depth >= limits.ranking_swing:
            told = "the probability of a right ranking fell and rose"
            said = f"{told} by {depth:.2g} (limit {{}}): D was wrong, and is sure again"
            found.append(finding("oscillating", "ranking", "", depth, limits.ranking_swing, said))
    for signal, swing in history.layers("swing", limits.warm_up):
        growth = ratio(swing.now, swing.usual())
        if growth >= limits.swing_growth and _swings(detrended(history.windows[signal]), limits):
            said = f"{signal} swings {growth:.1f}× as widely as before (limit {{}}×)"
            found.append(finding("oscillating", signal, "", growth, limits.swing_growth, said))
    real, fake = (history.windows.get(signal, []) for signal in ("real_logit", "fake_logit"))
    if len(real) == len(fake) == WINDOW:
        both = detrended([(r + f) / 2 for r, f in zip(real, fake, strict=True)])
        width = statistics.pstdev(both)
        times = ratio(width, statistics.median(abs(r - f) for r, f in zip(real, fake, strict=True)))
        if width >= 1 and times >= limits.swing_of_both and _swings(both, limits):
            said = f"the mean logits of real and fake swing together, by {times:.1f}× their gap (limit {{}}×)"
            found.append(finding("oscillating", "real_logit", "", times, limits.swing_of_both, said))
    return worst(found)


def has_won(history: History, limits: Thresholds) -> bool:
    ranking = history.get("ranking")
    return ranking is not None and ranking.now >= limits.separation


def _is_ahead(ranking: Series, limits: Thresholds) -> bool:
    """Whether D has told real and fake all along."""
    return bool(ranking.past) and min(ranking.now, ranking.usual()) >= limits.ahead


def _has_turned(ranking: Series, limits: Thresholds) -> bool:
    """Whether D has told most pairs rightly for a tenth of the past, and held fakes for real for another tenth.

    Fakes that are far off all the while run from one side to the other, and D after them.
    """
    if not ranking.past:
        return False
    return ranking.tail(10, upper=True) >= limits.turning and ranking.tail(10, upper=False) <= 0.5


def _came_near(history: History, limits: Thresholds) -> bool:
    """Whether fakes were near the data in the past: modes that never were covered cannot be lost."""
    coverage = history.get("coverage", past=limits.warm_up)
    return coverage is None or coverage.usual() <= limits.coverage


def _far_off(history: History, limits: Thresholds) -> Finding | None:
    """Fakes that are alike, or far from the data, after so long, and were no better before; by itself mode collapse.

    No better: as far in the median of the past (as alike in nine tenths of it), and no nearer for as long. Fakes that
    draw near, or drew near and are now about as far as the limit, have not failed.
    """
    for signal, limit in (("coverage", limits.coverage), ("diversity", limits.diversity)):
        series = history.get(signal, past=limits.learning)
        if series is None or history.since_nearer(signal) < limits.learning:
            continue
        if signal == "coverage" and min(series.now, series.usual()) >= limit:
            said = f"real samples lie {series.now:.3g}× as far from a fake as from each other (limit {{}}×), as before"
            return finding("mode-collapse", signal, "", series.now, limit, said)
        if signal == "diversity" and max(series.now, series.tail(10, upper=True)) <= limit:
            said = f"fakes are {series.now:.2g} as far apart as real samples (limit {{}}), as before"
            return finding("mode-collapse", signal, "", series.now, limit, said)
    return None


def real_samples_changed(history: History, limits: Thresholds) -> bool:
    """Whether they are many times as large as in the past, or as small."""
    largest = history.get("largest_real", past=limits.warm_up)
    if largest is None:
        return False
    change = ratio(largest.now, largest.usual())
    return not 1 / limits.real_change < change < limits.real_change


def _gap_in_spreads(history: History) -> float:
    """The gap between mean logits over the root mean square of both standard deviations: d′ of signal detection."""
    gap, real, fake = (history.get(name) for name in ("logit_gap", "real_logit_std", "fake_logit_std"))
    if gap is None or real is None or fake is None:
        return 0.0
    return ratio(gap.now, math.hypot(real.now, fake.now) / math.sqrt(2)) if gap.now > 0 else 0.0


def _of(history: History, *signals: str) -> list[Series]:
    return [found for found in map(history.get, signals) if found is not None]


def _fall_and_rise(values: Sequence[float]) -> float:
    """The deepest valley between two of the values: how far from the lower one of its sides to its bottom.

    A rise alone is a D that learns, or finds what tells all fakes.
    """
    left = list(itertools.accumulate(values, max))
    right = list(itertools.accumulate(reversed(values), max))[::-1]
    return max(min(high, other) - low for high, low, other in zip(left, values, right, strict=True))


def _swings(values: Sequence[float], limits: Thresholds) -> bool:
    """Whether values (mean 0) cross from one side to the other often enough, and smoothly, unlike noise."""
    spread = statistics.pstdev(values)
    if spread == 0:
        return False
    changes = statistics.fmean((b - a) ** 2 for a, b in itertools.pairwise(values)) / spread**2
    sides = [value > 0 for value in values if abs(value) > spread / 2]
    crossings = sum(a != b for a, b in itertools.pairwise(sides))
    return changes <= limits.swing_smoothness and crossings >= limits.swings
