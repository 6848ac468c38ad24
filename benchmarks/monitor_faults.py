"""Does the monitor name failures rightly, in time, and hold its peace on healthy runs?

Stage 1 trains every kind of failure and every healthy setting of ``faults_catalogue`` over seeds and keeps what the
monitor observed, and the truth beside it; finished runs are passed over, so it goes on where it was stopped:

    python benchmarks/monitor_faults.py train [--workers 2] [--seeds 0,2,5] [--only NAME,NAME]

Stage 2 applies the rules to what was kept, in seconds; ``--set`` also looks for better thresholds on one half of the
runs, and prints them:

    python benchmarks/monitor_faults.py score [--set]

Writes ``benchmarks/results/monitor_faults.csv`` (one row a run), and ``.png``, and the table in docs/monitor.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faults_catalogue import FAILURES, HEALTHY
from timing import RESULTS, write_csv

CASES = {case.name: case for case in (*HEALTHY, *FAILURES)}
FOLDER = Path("runs/monitor_faults")
DOCS = Path(__file__).parent.parent / "docs/monitor.md"
MARKS = ("<!-- benchmarks/monitor_faults.py -->", "<!-- end -->")


def train_one(job: tuple[str, int, Path]) -> str:
    """One run into a file of its own; returns a line about it."""
    import torch
    from faults_training import run

    torch.set_num_threads(1)
    name, seed, folder = job
    found = run(CASES[name], seed, folder)
    path = run_file(folder, name, seed)
    unfinished = path.with_suffix(".tmp")
    with gzip.open(unfinished, "wt", encoding="utf-8") as file:
        json.dump(found, file)
    unfinished.replace(path)
    last = found["truth"][-1] if found["truth"] else {"coverage": 0, "distance": float("nan")}
    said = found["last"]["name"]
    return f"{name} {seed}: {found['seconds']} s, coverage {last['coverage']:.2f}, FD {last['distance']:.3g}, {said}"


def run_file(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.json.gz"


def train(folder: Path, names: list[str], seeds: list[int], workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(name, seed, folder) for seed in seeds for name in names]
    done = {(found["case"], found["seed"]) for found in read(folder)}
    jobs = [job for job in jobs if job[:2] not in done]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for count, line in enumerate(pool.imap_unordered(train_one, jobs), 1):
            print(f"[{count}/{len(jobs)}] {line}", flush=True)


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Every finished run of a case as it stands in the catalogue."""
    for path in sorted(folder.glob("*.json.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found = json.load(file)
        if found["case"] in CASES and found["identity"] == CASES[found["case"]].identity:
            yield found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The first word and the loss of every run that failed, as shares of the run; a line a run, by kind and seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    failed = [row for row in rows if row["truth"] == "failed" and not CASES[row["case"]].is_healthy]
    names = list(dict.fromkeys(row["case"] for row in failed))
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(names) + 1.2), layout="constrained")
    for name in names:
        own = sorted((row for row in failed if row["case"] == name), key=lambda row: int(row["seed"]))
        steps = CASES[name].setting.steps
        for rank, row in enumerate(own):
            place = names.index(name) + 0.8 * ((rank + 0.5) / len(own) - 0.5)
            lost = int(row["lost_at"]) / steps
            axes.plot(lost, place, "kx", ms=3, mew=0.6)
            if row["said_at"] not in (None, ""):
                color = "tab:green" if str(row["right"]) == "True" else "tab:red"
                said = int(row["said_at"]) / steps
                axes.plot([said, lost], [place, place], color=color, lw=0.6)
                axes.plot(said, place, "o", color=color, ms=2)
    axes.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1.02), ylim=(-0.6, len(names) - 0.4))
    axes.set_xlabel("share of the run")
    axes.set_title("first word of the monitor (green: a right name) and loss by the truth (×)", fontsize=9)
    axes.tick_params(labelsize=7)
    axes.invert_yaxis()
    figure.savefig(path, dpi=120)


def report(folder: Path, search: bool) -> None:
    from faults_scoring import HALVES, figures, rows, score, set_thresholds, table

    from poise.monitor.thresholds import Thresholds

    runs = list(read(folder))
    thresholds = Thresholds()
    if search:
        names = [name for name in asdict(thresholds) if name != "warm_up"]
        thresholds = set_thresholds(runs, names)
        changed = {name: value for name, value in asdict(thresholds).items() if value != getattr(Thresholds(), name)}
        print("thresholds that cost less on the half they are set on:", changed)
    scored = score(runs, thresholds)
    for row in rows(scored):
        if (
            not row["right"]
            or row["truth"] == "unclear"
            or (row["expected"] == "healthy") != (row["truth"] == "healthy")
        ):
            print({key: row[key] for key in row if key not in ("data", "half")})
    for half in HALVES:
        print(half, {name: round(value, 3) for name, value in figures(o for o in scored if o.half == half).items()})
    if not search:
        write_csv(rows(scored), "monitor_faults.csv")
        text = DOCS.read_text(encoding="utf-8")
        before, _, rest = text.partition(MARKS[0])
        DOCS.write_text(f"{before}{MARKS[0]}\n{table(scored)}{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")
        plot(rows(scored), RESULTS / "monitor_faults.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("train", "score"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where runs are kept (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--seeds", default="0,1,2,3,4,5", help="separated by commas (default: %(default)s)")
    parser.add_argument("--only", default="", help="kinds, separated by commas; all by default")
    parser.add_argument("--set", action="store_true", help="look for better thresholds on one half of the runs")
    given = parser.parse_args()
    if given.stage == "train":
        names = given.only.split(",") if given.only else list(CASES)
        unknown = [name for name in names if name not in CASES]
        if unknown:
            parser.error(f"unknown kinds {unknown}; known: {', '.join(CASES)}")
        train(given.folder, names, [int(seed) for seed in given.seeds.split(",")], given.workers)
    else:
        report(given.folder, given.set)


if __name__ == "__main__":
    main()
