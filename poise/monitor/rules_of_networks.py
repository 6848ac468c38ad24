"""Rules for the networks themselves, layer by layer: spectra, and gradients that explode or vanish."""

from __future__ import annotations

import math

from poise.monitor.history import History, ratio
from poise.monitor.rules_of_play import has_won, real_samples_changed
from poise.monitor.thresholds import Thresholds
from poise.monitor.verdict import Finding, finding, worst

PLAYERS = {"G": "the generator", "D": "the discriminator"}


def spectral_explosion(history: History, limits: Thresholds) -> Finding | None:
    """σ₀ of a layer grows far beyond its past: what precedes collapse (Brock et al. 2019, section 4.1)."""
    found = []
    moved = {player: _growth_of_steps(history, player, limits)[0] >= limits.update_growth for player in PLAYERS}
    for layer, sigma in history.layers("sigma", limits.warm_up):
        growth = ratio(sigma.now, sigma.usual())
        limit = limits.sigma_growth_moved if moved.get(layer.partition(".")[0]) else limits.sigma_growth
        if growth >= limit and sigma.deviation() >= limits.deviations:
            said = f"σ₀ of {layer} grew {growth:.1f}× in {sigma.steps_since(1.5)} steps, to {sigma.now:.3g}"
            found.append(finding("spectral-explosion", "sigma", layer, growth, limit, f"{said} (limit {{}}×)"))
        surge, before, steps = sigma.surge()
        limit = max(limits.sigma_surge, before**limits.sigma_surge_power)
        if surge >= limit:
            said = f"σ₀ of {layer} grew {surge:.1f}× in {steps} steps, to {sigma.now:.3g}, faster than ever before"
            found.append(finding("spectral-explosion", "sigma", layer, surge, limit, f"{said} (limit {{}}×)"))
        since_start = ratio(sigma.now, sigma.start or sigma.now)
        if since_start >= limits.sigma_growth_since_start:
            said = f"σ₀ of {layer} is {since_start:.1f}× what it was at the start, {sigma.now:.3g} (limit {{}}×)"
            found.append(
                finding("spectral-explosion", "sigma", layer, since_start, limits.sigma_growth_since_start, said)
            )
    for layer, sigma in history.layers("sigma"):
        used = history.get("effective_sigma", layer)
        value = sigma.now if used is None else used.now
        if value >= limits.sigma_largest:
            said = f"σ₀ of {layer} is {value:.3g} (limit {{}})"
            found.append(finding("spectral-explosion", "sigma", layer, value, limits.sigma_largest, said))
    return worst(found)


def spectral_collapse(history: History, limits: Thresholds) -> Finding | None:
    """All singular values of a layer but the first are lost (Liu et al. 2019, arXiv 1908.10999)."""
    found = []
    for layer, rank in history.layers("stable_rank", limits.warm_up):
        share, lately = ratio(rank.now, max(rank.start or 0.0, rank.usual())), ratio(rank.now, rank.usual())
        falls = lately <= limits.rank_decay and rank.deviation() <= -limits.deviations
        falls = falls and len(rank.past) >= limits.learning  # ranks fall as networks begin to learn
        share = lately if falls else share
        if share <= limits.rank_decay and rank.now <= (limits.rank_small if falls else limits.rank_smallest):
            said = f"the stable rank of {layer} fell to {rank.now:.3g}, {share:.2g} of what it was (limit {{}})"
            found.append(finding("spectral-collapse", "stable_rank", layer, share, limits.rank_decay, said))
    return worst(found)


def exploding_gradients(history: History, limits: Thresholds) -> Finding | None:
    """A player's gradient, or the step of most of its layers, is many times its past (Lin et al. 2021, section 3).

    Of one layer alone the step is not enough: its weights may be scaled from outside.
    """
    found = []
    needed, cause = limits.deviations, ""
    if real_samples_changed(history, limits):
        needed, cause = needed / 2, ", and the real samples are of another size"
    for player, total in history.layers("gradient_total"):
        layer, whose = _steepest(history, player, limits, up=True), PLAYERS.get(player, player)
        if total.now >= limits.gradient_largest:
            said = f"the gradient of {whose} is {total.now:.3g} (limit {{}}), most of it in {layer}"
            found.append(
                finding("exploding-gradients", "gradient_norm", layer, total.now, limits.gradient_largest, said)
            )
        if len(total.past) < limits.warm_up:
            continue
        usual = total.usual() or max(total.past)  # D's is 0 where it has won: that is no past
        growth = ratio(total.now, usual) if usual > 0 else 0.0
        if growth >= limits.gradient_growth and total.deviation() >= needed:
            said = f"the gradient of {whose} is {growth:.1f}× its past (limit {{}}×), most so in {layer}{cause}"
            found.append(finding("exploding-gradients", "gradient_norm", layer, growth, limits.gradient_growth, said))
    for player, whose in PLAYERS.items():
        growth, most = _growth_of_steps(history, player, limits)
        own = _goes_its_own_way(history, player, growth, limits)
        limit = limits.update_growth if own else limits.update_growth_followed
        if growth >= limit:
            said = f"the weights of {whose} move {growth:.1f}× as far a step as before (limit {{}}×), most so {most}"
            found.append(finding("exploding-gradients", "update_ratio", most, growth, limit, said))
    drift = _drift_of_steps(history, limits)
    if drift >= limits.update_drift:
        said = f"the weights of both players move {drift:.2f}× as far a step as a while ago (limit {{}}×)"
        found.append(finding("exploding-gradients", "update_ratio", "", drift, limits.update_drift, said))
    return worst(found)


def _growth_of_steps(history: History, player: str, limits: Thresholds) -> tuple[float, str]:
    """By how much the steps of half of a player's layers have grown, or more; and the layer whose step grew most."""
    layers = [pair for pair in history.layers("update_ratio", limits.warm_up) if pair[0].startswith(f"{player}.")]
    steps = sorted((ratio(step.now, step.usual()), layer) for layer, step in layers)
    return (steps[(len(steps) - 1) // 2][0], steps[-1][1]) if steps else (0.0, "")


def _drift_of_steps(history: History, limits: Thresholds) -> float:
    """By how much the steps of both players have grown of late, their geometric mean; 0 where they do so all along.

    That is a warm-up of the rates; of one player alone it is a loss that has come to matter. So it is where the
    gradients of both have grown as well. And where a layer of the generator says less and less, or σ₀ of a layer grows
    faster, longer steps come of that.
    """
    growths, is_its_own = [], False
    for player in PLAYERS:
        series = history.get(f"{player.lower()}_step", past=limits.learning)
        if series is None or (series.start or 0.0) < series.usual() / limits.update_drift:
            return 0.0
        growths.append(series.lately())
        if growths[-1] < (limits.update_drift_d if player == "D" else math.sqrt(limits.update_drift)):
            return 0.0
        total = history.get("gradient_total", player, past=limits.learning)
        is_its_own = is_its_own or total is None or growths[-1] >= limits.update_alone * total.lately()
    if not is_its_own:
        return 0.0
    outputs, sigmas = (history.layers(signal, limits.learning) for signal in ("hidden_variance", "sigma"))
    fades = any(layer.startswith("G.") and output.lately() <= limits.hidden_fading for layer, output in outputs)
    grows = any(sigma.lately() >= limits.sigma_surge for _, sigma in sigmas)
    return 0.0 if fades or grows else math.sqrt(math.prod(growths))


def _goes_its_own_way(history: History, player: str, growth: float, limits: Thresholds) -> bool:
    """Whether a player's steps have grown and its gradient has not, by as much: it is the rates then."""
    total = history.get("gradient_total", player, past=limits.warm_up)
    return total is None or growth >= limits.update_alone * ratio(total.now, total.usual())


def vanishing_gradients(history: History, limits: Thresholds) -> Finding | None:
    """A layer's gradient, a player's whole one, or a layer's output has all but gone (Lin et al. 2021, section 4).

    A discriminator that has told all samples apart has no gradient either; that is another failure's sign.
    """
    found = []
    won = has_won(history, limits)
    for player, total in history.layers("gradient_total"):
        if total.now <= limits.gradient_smallest and not (player == "D" and won):
            layer = _steepest(history, player, limits, up=False)
            said = f"the gradient of {PLAYERS.get(player, player)} is {total.now:.3g} (limit {{}}), least in {layer}"
            found.append(
                finding("vanishing-gradients", "gradient_norm", layer, total.now, limits.gradient_smallest, said)
            )
    for layer, norm in history.layers("gradient_norm", limits.warm_up):
        share = ratio(norm.now, norm.usual())
        gone = share <= limits.gradient_decay and norm.deviation() <= -limits.deviations
        if gone and not (layer.startswith("D.") and won):
            said = f"the gradient of {layer} fell to {norm.now:.3g}, {share:.2g} of its past (limit {{}})"
            found.append(finding("vanishing-gradients", "gradient_norm", layer, share, limits.gradient_decay, said))
    for layer, hidden in history.layers("hidden_variance"):
        share = ratio(hidden.now, hidden.usual()) if len(hidden.past) >= limits.warm_up else 1.0
        fell = share <= limits.hidden_decay
        if fell or hidden.now <= limits.hidden_smallest:
            value, limit = (share, limits.hidden_decay) if fell else (hidden.now, limits.hidden_smallest)
            fallen = f", {share:.2g} of its past" if fell else ""
            said = f"the output of {layer} has a variance of {hidden.now:.3g}{fallen} (limit {{}})"
            found.append(finding("vanishing-gradients", "hidden_variance", layer, value, limit, said))
    return worst(found)


def _steepest(history: History, player: str, limits: Thresholds, up: bool) -> str:
    """The player's layer whose gradient left its past furthest; while there is no past, the largest (smallest)."""
    sign = 1 if up else -1
    own = {layer: one for layer, one in history.layers("gradient_norm") if layer.startswith(f"{player}.")}

    def rank(layer: str) -> tuple[bool, float]:
        one = own[layer]
        known = len(one.past) >= limits.warm_up
        return known, sign * (one.deviation() if known else one.now)

    return max(own, key=rank, default="")
