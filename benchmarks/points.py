"""Modes covered and the share of good points of ``ring2d`` and ``grid2d`` as they ship, over seeds.

    python benchmarks/points.py [--seeds 5]

Writes ``benchmarks/results/points.csv`` (one row a judgement) and ``.png``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from timing import RESULTS, write_csv

RECIPES = ("ring2d", "grid2d")
MEASURES = ("modes", "good")


def judgements(recipe: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Train the recipe in a fresh process: a row for each judgement."""
    out = folder / f"{recipe}-{seed}"
    command = [sys.executable, "-m", "poise.cli", "train", recipe, "--seed", str(seed), "--out", str(out), "--quiet"]
    subprocess.run(command, check=True)
    rows = []
    for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "evaluation" in record:
            found = record["evaluation"]
            rows.append({"recipe": recipe, "seed": seed, "step": record["step"], **{k: found[k] for k in MEASURES}})
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Each measure over the steps, a line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(MEASURES), len(RECIPES), figsize=(9, 5), layout="constrained", squeeze=False)
    for line, measure in zip(panels, MEASURES, strict=True):
        for axes, recipe in zip(line, RECIPES, strict=True):
            for seed in sorted({row["seed"] for row in rows}):
                own = [row for row in rows if (row["recipe"], row["seed"]) == (recipe, seed)]
                axes.plot([r["step"] for r in own], [r[measure] for r in own], marker="o", ms=3, label=f"seed {seed}")
            axes.set(title=recipe if measure == "modes" else "", xlabel="step", ylabel=measure)
    panels[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for recipe in RECIPES for seed in seeds for row in judgements(recipe, seed, Path(folder))]
    write_csv(rows, "points.csv")
    plot(rows, RESULTS / "points.png")
    for recipe in RECIPES:
        own = [row for row in rows if row["recipe"] == recipe]
        last = [row for row in own if row["step"] == max(row["step"] for row in own)]
        print(recipe, {measure: [row[measure] for row in last] for measure in MEASURES})


if __name__ == "__main__":
    main()
