"""Claims of Lin, Sekar & Fanti 2021 (arXiv 2009.02773) on what gradients and weights do under spectral normalization.

Claims 1 and 2; those on BSSN's samples are in ``bssn``.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from poise.studies.claim import Arms, Claim, Judgement
from poise.studies.claims import drawing
from poise.studies.claims.costs import ESTIMATED
from poise.studies.claims.judging import by_seed, checked, figure_of, paired, rows_of, sided, together, worst
from poise.studies.claims.settings import BSN_CIFAR, MINI, SEEDS, SMALL, Scale, cnn, each
from poise.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTHS, LEARNING_RATES = (4, 8, 16), (1e-3, 1e-2)
WITHIN = 1.05
"""how far above the bound a ratio may lie, for σ is estimated by one round of power iteration an update"""


def deep(norm: str, depth: int, rate: float, seed: int, steps: int) -> Trial:
    """A perceptron of so many hidden layers on the ring of Gaussians, non-saturating loss, no penalty."""
    changes = {
        "model.width": 64,
        "model.depth": depth,
        "d_norm.name": norm,
        "loss": "non-saturating",
        "penalties": [],
        "g_optimizer.lr": rate,
        "d_optimizer.lr": rate,
        "lr_schedule": "constant",
        "batch_size": 64,
        "steps": steps,
        "keep_every": steps // 4,
        "keep_checkpoints": 1,
        "ema_half_life": 50,
        "evaluation_samples": 2000,
        "log_every": 25,
        "best_by": "none",
        "device": "cpu",
    }
    return Trial(_deep(norm, depth, rate), "ring2d", changes, seed, measures=("gradient-bound", "gradient-history"))


def _deep(norm: str, depth: int, rate: float) -> str:
    return f"{norm.replace('sn', 'SN')}, depth {depth}, rate {rate:g}"


def _gradients(scale: Scale, steps: int, seeds: range, cnn_seeds: range) -> list[Trial]:
    makers = [
        partial(deep, norm, depth, rate, steps=steps)
        for norm in ("none", "sn")
        for rate in LEARNING_RATES
        for depth in DEPTHS
    ]
    found = each(seeds, *(lambda seed, make=make: make(seed=seed) for make in makers))
    measures = ("gradient-bound", "gradient-history")
    return found + each(
        cnn_seeds,
        lambda seed: cnn(scale, "none", "B", seed, "CNN, none", measures),
        lambda seed: cnn(scale, "SN", "B", seed, "CNN, SN", measures),
    )


def judge_gradients(arms: Arms) -> Judgement:
    """Without SN the gradient grows with depth or with the rate and passes the bound; with SN it never does."""
    ratio = "gradient-bound/whole"

    def logs(norm: str, depth: int, rate: float) -> dict[int, float]:
        return by_seed(arms, _deep(norm, depth, rate), ratio, log=True)

    shallow, fast = DEPTHS[0], LEARNING_RATES[-1]
    by_depth = [
        one for rate in LEARNING_RATES for one in paired(logs("none", DEPTHS[-1], rate), logs("none", shallow, rate))
    ]
    by_rate = [
        one for depth in DEPTHS for one in paired(logs("none", depth, fast), logs("none", depth, LEARNING_RATES[0]))
    ]
    names = {norm: [_deep(norm, depth, rate) for depth in DEPTHS for rate in LEARNING_RATES] for norm in ("none", "sn")}
    under = [one.figures.get(ratio) for name in names["sn"] for one in arms.get(name, [])]
    known = [value for value in under if value is not None and math.isfinite(value)]
    without = worst({name: arms.get(name, []) for name in names["none"]}, ratio)
    grows = [
        sided(
            f"without SN, ln of the ratio to the bound grows from depth {shallow} to {DEPTHS[-1]} by", by_depth, False
        ),
        sided(f"and from rate {LEARNING_RATES[0]:g} to {fast:g} by", by_rate, False),
    ]
    exploded: bool | None = True if any(part.verdict == "holds" for part in grows) and without > 1 else None
    if all(part.verdict == "does not hold" for part in grows) or without <= 1:
        exploded = False
    growth = "; ".join(f"{part.words} ({part.verdict})" for part in grows)
    most = max(known, default=math.nan)
    parts = [
        checked(f"{growth}; largest ratio without SN {without:.3g}, so one grows and passes the bound", exploded),
        checked(
            f"with SN the largest ratio of all runs and steps is {most:.3g}, at most {WITHIN}",
            None if len(known) < len(under) or not known else most <= WITHIN,
        ),
    ]
    figures = {
        ratio: "‖∇D‖ / (√L·‖x‖), largest",
        "gradient-bound/layer": "one layer's / ‖x‖",
        "gradient-bound/with_biases": "with biases",
        "gradient-history/largest": "largest gradient of the loss",
    }
    told = (
        "Ratios are of D without its biases, of which the theorem speaks; perceptrons, whose reshaped σ is their "
        "operator norm. For the CNN it is not: there the bound is not promised, and its rows are told only"
    )
    return together(parts, rows_of(arms, figures), told)


def draw_gradients(arms: Arms, figure: Figure) -> None:
    """The ratio to the bound through training, without SN and with it, a line for each depth and rate."""
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, norm in ((left, "none"), (right, "SN")):
        shown = {name: of for name, of in arms.items() if name.startswith(f"{norm},")}
        drawing.curves(axes, shown, "gradient-bound", "generator updates", "‖∇D(x)‖ / (√L·‖x‖)", log=True)
        axes.axhline(1.0, color="black", lw=0.8, ls="--")
        axes.set_title("no normalization" if norm == "none" else norm, fontsize="small")
    drawing.finished(figure, arms, "Gradient of D in its weights against the bound")


GRADIENTS = Claim(
    1,
    "gradients-bounded",
    "Without SN the gradients of a deep discriminator explode with depth or rate; with SN they stay under a bound",
    "Lin et al. 2021, theorem on exploding gradients and its figures",
    "with SN each layer's gradient stays at most ‖x‖ and the whole at most √L·‖x‖; without, it grows by orders of "
    "magnitude (MNIST, CIFAR-10)",
    {
        "mini": lambda: _gradients(MINI, 240, SEEDS, SEEDS),
        "small": lambda: _gradients(SMALL, 2_000, SEEDS, SEEDS),
        "paper": lambda: _gradients(BSN_CIFAR, 10_000, SEEDS, SEEDS),
    },
    judge_gradients,
    draw_gradients,
    21.0,
    ESTIMATED,
)


def _variances(scale: Scale) -> list[Trial]:
    return each(
        SEEDS,
        *(
            lambda seed, method=method: cnn(scale, method, "B", seed, measures=("weight-variance",))
            for method in ("none", "SN", "BSN")
        ),
    )


NEAR = (0.25, 1.05)
"""of LeCun's variance: half its standard deviation, and the most that W/σ can have"""


def judge_variances(arms: Arms) -> Judgement:
    """SN's variance stays near LeCun's and drifts less than without; BSN's is nearer Xavier's than SN's."""

    def of(arm: str, figure: str) -> dict[int, float]:
        return by_seed(arms, arm, f"weight-variance/{figure}")

    outcomes = arms.get("SN", [])
    low = [figure_of(one, "weight-variance/lecun_low") for one in outcomes]
    high = [figure_of(one, "weight-variance/lecun_high") for one in outcomes]
    lows, highs = ([value for value in found if value is not None] for found in (low, high))
    whole = bool(lows) and len(lows) == len(outcomes)
    reach = f"{min(lows):.3g} to {max(highs):.3g}" if whole else "not known of all runs"
    near = whole and min(lows) >= NEAR[0] and max(highs) <= NEAR[1]
    parts = [
        checked(
            f"Var(w) under SN, mean over layers, is {reach} of LeCun's in training ({NEAR[0]} to {NEAR[1]} is near)",
            near if whole else None,
        ),
        sided("|ln| drift of Var(w), SN less none", paired(of("SN", "drift"), of("none", "drift")), True),
        sided("|ln| distance to Xavier's, BSN less SN", paired(of("BSN", "xavier"), of("SN", "xavier")), True),
        sided(
            "|ln| drift of hidden outputs' variance, SN less none",
            paired(of("SN", "hidden_drift"), of("none", "hidden_drift")),
            True,
        ),
    ]
    figures = {
        "weight-variance/drift": "drift of Var(w)",
        "weight-variance/lecun": "|ln| to LeCun's",
        "weight-variance/xavier": "|ln| to Xavier's",
        "weight-variance/hidden_drift": "drift of hidden variance",
    }
    told = "The start is torch's own initialization, whose variance is a third of LeCun's; drift is from there"
    return together(parts, rows_of(arms, figures), told)


def draw_variances(arms: Arms, figure: Figure) -> None:
    """Var(w)·fan_in of every layer through training, a panel for each method; LeCun's is the dashed line."""
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (name, outcomes) in zip(panels, arms.items(), strict=False):
        layers = sorted({curve for one in outcomes for curve in one.curves if curve.startswith("weight-variance/")})
        for index, layer in enumerate(layers):
            for one in outcomes:
                points = one.curves.get(layer, [])
                label = layer.partition("/")[2] if one is outcomes[0] else None
                axes.plot([x for x, _ in points], [y for _, y in points], color=f"C{index}", lw=0.7, label=label)
        axes.axhline(1.0, color="black", lw=0.8, ls="--")
        axes.set(title=name, yscale="log", xlabel="generator updates")
    panels[0].set_ylabel("Var(w) · fan_in")
    drawing.finished(figure, arms, "Variance of the weights in use, by layer")


VARIANCES = Claim(
    2,
    "variance-held",
    "SN holds the weights' variance near LeCun's through training, where the initialization alone drifts; BSN's is "
    "nearer Xavier's",
    "Lin et al. 2021, theorem on vanishing gradients and its figures",
    "Var(w/σ) lies between L/(max(m,n)·log min(m,n)) and 1/max(m,n), throughout training; hidden outputs keep their "
    "scale",
    {budget: partial(_variances, scale) for budget, scale in (("mini", MINI), ("small", SMALL), ("paper", BSN_CIFAR))},
    judge_variances,
    draw_variances,
    30.0,
    ESTIMATED,
)

CLAIMS = (GRADIENTS, VARIANCES)
