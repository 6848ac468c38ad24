"""Modes covered and wall time of `poise train stacked-digits`, from a cold start, over seeds.

Each seed is a fresh process with an empty cache: the time is what a newcomer waits after installation: imports, the
judge's own training, training, every judgement and the report included. Run it on an otherwise idle machine:

    python benchmarks/stacked_digits.py [--seeds 3]

Writes ``benchmarks/results/stacked_digits.csv`` (one row a judgement) and ``.png``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WANTED_MODES, ALLOWED_SECONDS = 950, 240


def run_seed(seed: int, folder: Path, *fields: str) -> list[dict[str, Any]]:
    """Train one seed, with these recipe fields, in a fresh process: a row for each judgement.

    The whole process's wall time is in the last.
    """
    out = folder / f"seed-{seed}"
    command = [sys.executable, "-m", "poise.cli", "train", "stacked-digits", "--seed", str(seed), "--out", str(out)]
    cold = {**os.environ, "POISE_CACHE": str(folder / f"cache-{seed}")}
    started = time.perf_counter()
    subprocess.run([*command, "--quiet", *fields], check=True, env=cold)
    wall = time.perf_counter() - started
    rows = []
    for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "evaluation" in record:
            found = record["evaluation"]
            row = {"seed": seed, "step": record["step"], "seconds": record["seconds"], "samples": found["samples"]}
            rows.append(row | {name: found[name] for name in ("modes", "kl", "score_digits", "fd_digits")})
    rows[-1]["process_seconds"] = round(wall, 1)
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Modes over wall time, a line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for seed in sorted({row["seed"] for row in rows}):
        line = [row for row in rows if row["seed"] == seed]
        axes.plot([r["seconds"] for r in line], [r["modes"] for r in line], marker="o", ms=3, label=f"seed {seed}")
    axes.axhline(WANTED_MODES, color="grey", ls="--", lw=1, label=f"{WANTED_MODES} modes")
    axes.axvline(ALLOWED_SECONDS, color="grey", ls=":", lw=1, label=f"{ALLOWED_SECONDS} s")
    axes.set(xlabel="wall time, training and judging (s)", ylabel="modes covered of 1000 (n = 10,000)", ylim=(0, 1010))
    axes.set_title("poise train stacked-digits, 2 CPU cores")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 (default: 3)")
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for seed in range(seeds) for row in run_seed(seed, Path(folder))]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "stacked_digits.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, RESULTS / "stacked_digits.png")
    for row in rows:
        if "process_seconds" in row:
            met = row["modes"] >= WANTED_MODES and row["process_seconds"] <= ALLOWED_SECONDS
            print(f"seed {row['seed']}: {row['modes']} modes in {row['process_seconds']} s", "" if met else "MISSED")


if __name__ == "__main__":
    main()
