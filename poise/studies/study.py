"""A study: grids of runs done once each, what is left of them found again after a kill, and claims judged by them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from poise.registry import Registry
from poise.studies.claim import BUDGETS, Arms, Claim, Judgement
from poise.studies.datasets import Paths, check_paths, flags, needed, open_data
from poise.studies.executors import Died, Executor, Here
from poise.studies.results import Results
from poise.studies.runner import Task, one_line, perform
from poise.studies.trial import Outcome, Trial

SHOWN = 3  # figures in a line of progress


@dataclass(frozen=True)
class Judged:
    """A claim with its outcomes at a budget, and what its judge says; or why it says nothing yet."""

    claim: Claim
    budget: str
    arms: Arms
    judgement: Judgement | None
    missing: str = ""

    @property
    def outcomes(self) -> list[Outcome]:
        return [one for arm in self.arms.values() for one in arm]


def all_claims() -> Registry[Claim]:
    """The shipped claims by name, by rising number."""
    from poise.studies.claims import CLAIMS

    return Registry("study", dict(sorted(CLAIMS.items(), key=lambda item: item[1].number)))


def grid(claim: Claim, budget: str) -> list[Trial]:
    """A claim's runs at a budget. Raises ValueError for a budget that there is not."""
    if budget not in claim.grids:
        raise ValueError(f"{claim.name} has no budget {budget!r}; it has {', '.join(claim.grids)}")
    return claim.grids[budget]()


def distinct(trials: Iterable[Trial]) -> list[Trial]:
    """Each run once, with all measures that are asked of it."""
    found: dict[str, Trial] = {}
    for trial in trials:
        before = found.get(trial.identity, trial)
        found[trial.identity] = replace(before, measures=tuple(dict.fromkeys(before.measures + trial.measures)))
    return list(found.values())


def run_trials(
    trials: Iterable[Trial],
    results: Results,
    executor: Executor | None = None,
    say: Callable[[str], None] = print,
    paths: Paths | None = None,
) -> list[Outcome]:
    """Do what of trials has not been done, keep each outcome as it comes, and say a line of it.

    One that crashes is done once more when the others are done.

    Args:
        paths: by data set, where its files lie: ``{"cifar10": "/data/cifar10"}``, for recipes that have no path.

    Returns:
        those that crashed twice.

    Raises:
        ValueError: data that is not given, is not there, or is not what earlier runs had, before anything is done.
        KeyboardInterrupt: a stop was asked for; the same call goes on from there.
    """
    executor, paths = executor or Here(), paths or {}
    wanted = distinct(trials)
    check_paths(paths, wanted)
    left = [trial for trial in map(results.missing, wanted) if trial is not None]
    progress = _Progress(len(wanted), len(wanted) - len(left), say)
    if progress.done:
        say(f"{progress.done} of {len(wanted)} runs are in {results.path} already")
    crashed: list[Outcome] = []
    try:
        with results.alone():
            open_data(paths, left, results, say)
            for outcome in _outcomes(left, results.folder, executor, paths):
                if outcome.status == "crashed":
                    crashed.append(outcome)
                else:
                    results.save(outcome)
                progress.tell(outcome, "; to be tried once more" if outcome.status == "crashed" else "")
            again, crashed = [outcome.trial for outcome in crashed], []
            for outcome in _outcomes(again, results.folder, executor, paths):
                results.save(outcome)
                crashed += [outcome] if outcome.status == "crashed" else []
                progress.tell(outcome)
    except KeyboardInterrupt:
        told = f"stopped with {progress.done} of {len(wanted)} runs done; the same command goes on from there"
        raise KeyboardInterrupt(told) from None
    return crashed


def _outcomes(trials: Sequence[Trial], folder: Path, executor: Executor, paths: Paths) -> Iterator[Outcome]:
    # An absolute folder: a worker on another machine stands elsewhere.
    tasks = [Task(trial, folder.resolve() / "runs", paths) for trial in trials]
    with closing(executor.map(perform, tasks)) as found:  # closed, workers end
        for number, outcome in found:
            yield Outcome(trials[number], "crashed", outcome.reason) if isinstance(outcome, Died) else outcome


class _Progress:
    """A line for each outcome: how many are done, what is left of the time, and what came of it."""

    def __init__(self, count: int, done: int, say: Callable[[str], None]) -> None:
        self.count, self.done, self.say = count, done, say
        self.before, self.started = done, time.perf_counter()

    def tell(self, outcome: Outcome, ending: str = "") -> None:
        self.done += outcome.status != "crashed"
        left = ""
        if self.before < self.done < self.count:
            each = (time.perf_counter() - self.started) / (self.done - self.before)
            left = f", {math.ceil(each * (self.count - self.done) / 60)} min left"
        trial, shown = outcome.trial, list(outcome.figures.items())[:SHOWN]
        figures = ", ".join(f"{name} {value:.4g}" for name, value in shown)
        what = figures or outcome.status if outcome.status == "finished" else f"{outcome.status}, {outcome.reason}"
        run = f"{trial.arm}, seed {trial.seed}"
        self.say(f"[{self.done}/{self.count}{left}] {run}: {what}; {outcome.seconds:.1f} s{ending}")


def judge(claim: Claim, budget: str, results: Results) -> Judged:
    """Judge a claim by the outcomes that are kept. It is not judged while runs are missing or have crashed."""
    arms: dict[str, list[Outcome]] = {}
    trials = grid(claim, budget)
    absent = crashed = 0
    for trial in trials:
        outcome = None if results.missing(trial) and not _crashed(results, trial) else results.outcome(trial)
        if outcome is None:
            absent += 1
            continue
        crashed += outcome.status == "crashed"
        arms.setdefault(trial.arm, []).append(outcome)
    if absent or crashed:
        told = [f"{crashed} crashed"] * bool(crashed) + [f"{absent} not run"] * bool(absent)
        return Judged(claim, budget, arms, None, f"{', '.join(told)} of {len(trials)} runs")
    try:
        return Judged(claim, budget, arms, claim.judge(arms))
    except Exception as error:
        raise RuntimeError(f"the judge of {claim.name} broke: {one_line(error)}") from error


def _crashed(results: Results, trial: Trial) -> bool:
    found = results.outcome(trial)
    return found is not None and found.status == "crashed"


def run_study(
    claims: Sequence[Claim],
    budget: str,
    folder: str | Path,
    executor: Executor | None = None,
    say: Callable[[str], None] = print,
    paths: Paths | None = None,
) -> None:
    """Run the grids of claims, each distinct run once; ``judge`` then reads what is kept.

    Args:
        budget: "mini", "small" or "paper". folder: the store's. executor: in this process by default.
        paths: as ``run_trials`` takes them.
    """
    if budget not in BUDGETS:
        raise ValueError(f"budget is {budget!r}; allowed: {', '.join(BUDGETS)}")
    grids = {claim.name: grid(claim, budget) for claim in claims}
    with Results(folder) as results:
        for name, trials in grids.items():
            results.plan(name, budget, trials)
        run_trials([trial for trials in grids.values() for trial in trials], results, executor, say, paths)


def lines(claims: Mapping[str, Claim], folder: str | Path) -> list[str]:
    """``poise study list``: each claim with its numbers of runs, and what they cost."""
    told, every = [], {budget: list[Trial]() for budget in BUDGETS}
    known = Results(folder) if (Path(folder) / "results.sqlite").is_file() else None
    for claim in claims.values():
        counts = []
        for budget in BUDGETS:
            trials = grid(claim, budget) if budget in claim.grids else []
            every[budget] += trials
            cost = _cost(trials, known) if budget == "mini" else ""
            counts.append(f"{budget} {len(distinct(trials))} runs{cost}")
        told.append(f"{claim.number:>2} {claim.name}: {claim.sentence} ({claim.place})")
        told.append(f"   {'; '.join(counts)}, about {_few(claim.gpu_hours)} GPU-hours")
    totals = ", ".join(f"{budget} {len(distinct(trials))}" for budget, trials in every.items())
    hours = sum(claim.gpu_hours for claim in claims.values())
    told.append(f"all, each distinct run once: {totals} runs{_cost(every['mini'], known)}")
    told.append(f"all at the paper's budget: about {hours:,.0f} GPU-hours at most")
    if known is not None:
        known.__exit__()
    return told


def _cost(trials: Sequence[Trial], known: Results | None) -> str:
    """Minutes that runs took, scaled up where only some of them were done."""
    found = [known.outcome(trial) for trial in distinct(trials)] if known else []
    seconds = [one.seconds for one in found if one is not None and one.status != "crashed"]
    if not seconds:
        return ""
    return f" (about {sum(seconds) / len(seconds) * len(found) / 60:.0f} core-minutes by {len(seconds)} that were done)"


def _few(hours: float) -> str:
    """Hours to two digits where they are few: 0.05 are not 0."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def paper_lines(claims: Sequence[Claim], paths: Paths | None = None) -> list[str]:
    """What the paper's budget would run: each arm with its seeds, estimated GPU-hours, and the data to be given.

    Raises:
        ValueError: paths to data that it does not read, or that is not there.
    """
    paths = paths or {}
    every = {claim.name: grid(claim, "paper") for claim in claims}
    check_paths(paths, all_trials := [trial for trials in every.values() for trial in trials])
    told, names = [], list[str]()
    for claim in claims:
        trials = every[claim.name]
        arms: dict[str, list[Trial]] = {}
        for trial in trials:
            arms.setdefault(trial.arm, []).append(trial)
        told.append(f"{claim.name}: {len(distinct(trials))} runs, about {_few(claim.gpu_hours)} GPU-hours")
        told += [f"  from: {claim.estimated_from}"] if claim.estimated_from else []
        told += [f"  data: {flags(read)}"] if (read := needed(trials)) else []
        names += read
        told += [f"  {arm}: {len(of)} × {of[0].recipe or of[0].work}" for arm, of in arms.items()]
    if len(claims) > 1:
        hours = sum(claim.gpu_hours for claim in claims)
        told.append(f"all, each distinct run once: {len(distinct(all_trials))} runs, at most {hours:,.0f} GPU-hours")
    lacking = [name for name in dict.fromkeys(names) if name not in paths]
    told.append("nothing was run; --yes runs them" + (f", with {flags(lacking)}" if lacking else ""))
    return told
