"""Whether going back pays: recipes that collapse, stopped, let go on, and rolled back; modes covered at the end.

Each recipe is one whose fault is common, and is trained by ``poise train`` as it is with each ``on_failure``:

- ``rates``: a ring of 8 Gaussians, no normalization, learning rates twenty times those it is learnt with.
- ``saturating``: a grid of 25 Gaussians, the minimax loss, a discriminator with five updates and ten times the rate.
- ``undamped``: a ring of 8 Gaussians, the Wasserstein loss with nothing that bounds the discriminator, and momentum
  0.9: the bilinear game circles outward (Mescheder et al. 2018).

The third is the case of that name in ``faults_catalogue.py``, chosen before it was tried. Of the faults there that are
a recipe and nothing else, and fail by the truth, it is the one whose cause differs from the first two's and is within
what a return changes (rates, R1, σ₀ of a layer). Left out are a D too deep or too strictly normalized, one whose first
weights are too large, and one whose rate is 1/1000: they want another D, or a faster one, and no return gives that.

Judged is the averaged generator of the newest checkpoint (of the stopped run also of its last healthy one), by points
within 3σ of a mode: modes covered, as usual, by a point at least; the share of good points; and, since points strewn
about cover many modes by chance, modes held: by a tenth at least of the points that the data themselves would have
there. What the monitor saw, what was changed, and how many steps that took in all, is in the table too.

    python benchmarks/rollback.py [--seeds 0 1 2 3 4 5] [--recipes rates saturating undamped] [--steps 1200] [--fresh]

Writes ``benchmarks/results/rollback.csv`` and ``.png``; runs that are in the table already are not trained again.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timing import RESULTS, write_csv

import poise
from poise.data.toys import Points
from poise.metrics.coverage import covered
from poise.monitor import diagnose
from poise.training import Recipe, Run, TrainingFailed, checkpoint, train
from poise.training.recovery import healthy_before

FAST = {"lr": 4e-2, "beta1": 0.0, "beta2": 0.9}
MOMENTUM = {"lr": 2e-3, "beta1": 0.9, "beta2": 0.99}
USUAL = {"lr": 2e-3, "beta1": 0.0, "beta2": 0.9}
TOY: dict[str, Any] = {
    **{"model": {"name": "mlp", "width": 64, "depth": 3, "latent_dim": 2, "activation": "leaky"}, "d_norm": "none"},
    **{"batch_size": 128, "log_every": 50, "sample_every": 10_000, "checkpoint_every": 50, "keep_every": 50},
    **{"evaluate_every": None, "ema_half_life": 50, "best_by": "none", "device": "cpu", "precision": "fp32"},
}
RECIPES: dict[str, dict[str, Any]] = {
    "rates": {"data": "ring2d", "loss": "non-saturating", "g_optimizer": FAST, "d_optimizer": FAST},
    "saturating": {
        **{"data": "grid2d", "loss": "minimax", "n_dis": 5},
        **{"g_optimizer": USUAL, "d_optimizer": {**USUAL, "lr": 2e-2}},
    },
    "undamped": {
        **{"data": "ring2d", "loss": "wasserstein", "g_optimizer": MOMENTUM, "d_optimizer": MOMENTUM, "batch_size": 64},
        "model": {**TOY["model"], "depth": 2, "latent_dim": 16},
    },
}
WAYS = ("warn", "stop", "rollback")
SAMPLES = 2500
HELD = 0.1  # of a mode's share of the points
KEY = ("recipe", "seed", "way", "steps")


def modes(run: Run, step: str | int = "newest") -> tuple[int, float, int]:
    """Modes covered, share of good points and modes held, of the averaged generator of a checkpoint."""
    data = run.data()
    assert isinstance(data, Points)
    found = covered(run.sampler(checkpoint=step, device="cpu").sample(SAMPLES, seed=0), data.mixture)
    held = int((found.counts >= HELD * SAMPLES / found.of).sum())
    return found.modes, found.good, held


def row(name: str, seed: int, way: str, steps: int, folder: Path) -> dict[str, Any]:
    """Train a recipe with a seed and one way of acting, and judge what is there at its end."""
    values = {"name": f"rollback-{name}", **TOY, **RECIPES[name], "steps": steps, "seed": seed, "on_failure": way}
    started, out = time.perf_counter(), folder / f"{name}-{seed}-{way}"
    try:
        train(Recipe.parse(values), out, bar=False, say=lambda line: print("   ", line[:150], flush=True))
        ended = "end"
    except TrainingFailed:
        ended = "stopped"
    run = Run(out)
    last = checkpoint.steps(run.checkpoints)[-1]
    healthy = healthy_before(run.checkpoints, steps + 1)
    found, good, held = modes(run)
    returns = [record["rollback"] for record in run.records() if "rollback" in record]
    verdict = next((stretch.verdict for stretch in diagnose(out).timeline if stretch.verdict.is_failing), None)
    return {
        **{"recipe": name, "seed": seed, "way": way, "steps": steps, "ended": ended, "last_step": last},
        **{"modes": found, "good_points": f"{good:.3f}", "modes_held": held},
        "modes_healthy": modes(run, healthy)[0] if healthy is not None else "",
        "healthy_step": "" if healthy is None else healthy,
        "rollbacks": len(returns),
        "trained_steps": last + sum(event["from"] - event["to"] for event in returns),
        "verdicts": " ".join(event["verdict"] for event in returns) or (verdict.name if verdict else ""),
        "change": returns[-1]["change"] if returns else "",
        "seconds": f"{time.perf_counter() - started:.1f}",
    }


def plot(rows: list[dict[str, Any]]) -> None:
    """Modes covered by recipe and way: each seed a point, their mean a bar, and within it the mean of those held."""
    import matplotlib.pyplot as plt

    colours = {"warn": "#8a94a3", "stop": "#e08a3d", "rollback": "#3d7fe0"}
    names = list(dict.fromkeys(one["recipe"] for one in rows))
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    ways = [way for way in WAYS if any(one["way"] == way for one in rows)]
    for place, way in enumerate(ways):
        for column, name in enumerate(names):
            those = [one for one in rows if one["recipe"] == name and one["way"] == way]
            own, held = ([int(one[key]) for one in those] for key in ("modes", "modes_held"))
            x = column + 0.27 * (place - (len(ways) - 1) / 2)
            label = {"warn": "goes on (warn)", "stop": "stop", "rollback": "rollback"}[way] if column == 0 else None
            axes.bar(x, sum(own) / max(1, len(own)), 0.25, color=colours[way], alpha=0.55, label=label)
            axes.bar(x, sum(held) / max(1, len(held)), 0.25, color=colours[way])
            axes.plot([x] * len(own), own, "o", color="#1c2330", markersize=4)
    for column, name in enumerate(names):
        total = 25 if RECIPES[name]["data"] == "grid2d" else 8
        axes.hlines(total, column - 0.42, column + 0.42, colors="#1c2330", linestyles="dotted", linewidth=1)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("modes covered at the end")
    axes.set_title(
        "means of the seeds: covered (pale), held (full); points: covered, each seed; dotted: all modes", fontsize=9
    )
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(RESULTS / "rollback.png", dpi=150)


def known() -> list[dict[str, Any]]:
    path = RESULTS / "rollback.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--recipes", nargs="+", choices=tuple(RECIPES), default=list(RECIPES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--fresh", action="store_true", help="train again what is in the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [(name, seed, way) for seed in options.seeds for name in options.recipes for way in options.ways]
    rows = [] if options.fresh else known()
    done = {tuple(str(one[key]) for key in KEY) for one in rows}
    with tempfile.TemporaryDirectory() as folder:
        for name, seed, way in wanted:
            if (name, str(seed), way, str(options.steps)) in done:
                continue
            rows.append(row(name, seed, way, options.steps, Path(folder)))
            print("  ".join(map(str, rows[-1].values())), flush=True)
            write_csv(rows, "rollback.csv")
    plot(rows)
    print(f"poise {poise.__version__}, {len(rows)} runs")


if __name__ == "__main__":
    main()
