"""Whether bf16 costs quality: ``stacked-digits`` in bf16 and in fp32, the same seeds, judged alike.

For every measure, the mean over seeds in each precision, their spread, and the mean of the differences seed by seed
with its 95% interval (Student's t). No difference beyond the spread means that the interval holds 0.

    python benchmarks/precision.py [--seeds 5] [--fresh]

Writes ``benchmarks/results/precision.csv`` (one row a run, as it ends) and ``.png``. Runs in the file are not made
again, unless ``--fresh`` is given.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from pathlib import Path
from typing import Any

from stacked_digits import run_seed
from timing import RESULTS, write_csv

MEASURES = ("modes", "kl", "score_digits", "fd_digits")
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""seeds ↦ 97.5% quantile of Student's t with one degree of freedom less"""


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(MEASURES), figsize=(10, 3), layout="constrained")
    for panel, measure in zip(panels, MEASURES, strict=True):
        for place, precision in enumerate(("bf16", "fp32")):
            values = [row[measure] for row in rows if row["precision"] == precision]
            panel.plot([place] * len(values), values, "o", alpha=0.6)
        panel.set(xticks=(0, 1), xticklabels=("bf16", "fp32"), xlim=(-0.5, 1.5), title=measure)
    figure.savefig(path, dpi=120)


def kept() -> list[dict[str, Any]]:
    """The rows of former runs."""
    path = RESULTS / "precision.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    whole = ("seed", "step", "modes")
    return [
        {key: value if key == "precision" else (int if key in whole else float)(value) for key, value in row.items()}
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, choices=sorted(STUDENT))
    parser.add_argument("--fresh", action="store_true", help="make all runs again")
    options = parser.parse_args()
    seeds = range(options.seeds)
    rows = [] if options.fresh else kept()
    done = {(row["precision"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for precision in ("bf16", "fp32"):
                if (precision, seed) in done:
                    continue
                last = run_seed(seed, Path(folder) / precision, "--precision", precision)[-1]
                rows.append({"precision": precision, **{key: last[key] for key in ("seed", "step", *MEASURES)}})
                print(rows[-1], flush=True)
                write_csv(rows, "precision.csv")
    rows = sorted((row for row in rows if row["seed"] in seeds), key=lambda row: (row["seed"], row["precision"]))
    for measure in MEASURES:
        found = {p: [row[measure] for row in rows if row["precision"] == p] for p in ("bf16", "fp32")}
        differences = [b - f for b, f in zip(found["bf16"], found["fp32"], strict=True)]
        half = STUDENT[len(seeds)] * statistics.stdev(differences) / len(seeds) ** 0.5
        means = "  ".join(f"{p} {statistics.mean(v):.4g} ± {statistics.stdev(v):.2g}" for p, v in found.items())
        print(f"{measure:13} {means}  difference {statistics.mean(differences):+.4g} ± {half:.2g}")
    write_csv(rows, "precision.csv")
    plot(rows, RESULTS / "precision.png")


if __name__ == "__main__":
    main()
