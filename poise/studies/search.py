"""Hyper-parameter search beyond grids: Optuna proposes changes to a recipe, and each is a trial like any other.

Its runs are kept and found again like a grid's: with the same arguments the same proposals come again, so that a search
that was killed goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.studies.executors import Executor, Here
from poise.studies.results import FOLDER, Results
from poise.studies.study import run_trials
from poise.studies.trial import Outcome, Trial

Space = Mapping[str, Sequence[Any]]
"""dotted field → (low, high), (low, high, "log"), or a list of choices; whole numbers where both bounds are"""


@dataclass(frozen=True)
class Found:
    """What a search found: the best finished outcome, or None where all failed, and all of them, in order."""

    best: Outcome | None
    outcomes: list[Outcome]


def search(
    recipe: str,
    space: Space,
    figure: str,
    n: int,
    *,
    direction: str = "maximize",
    changes: Mapping[str, Any] | None = None,
    measures: tuple[str, ...] = (),
    seed: int = 0,
    folder: str | Path = FOLDER,
    executor: Executor | None = None,
    say: Callable[[str], None] = print,
) -> Found:
    """Search a recipe's fields for the best figure, by Optuna's tree-structured Parzen estimator.

    As many trials as the executor does at a time are proposed at once. A failed run is told to Optuna as failed.

    Args:
        recipe: a shipped recipe's name. space: ``{"d_optimizer.lr": (1e-5, 1e-2, "log"), "n_dis": (1, 5)}``.
        figure: of the outcomes. n: trials. direction: "maximize" or "minimize".
        changes: to the recipe in all trials. measures: taken of each run. seed: the runs', and the proposals'.

    Raises:
        ModuleNotFoundError: Optuna is missing.
        ValueError: a direction or range that is none; a figure that finished runs do not have.
    """
    if direction not in ("maximize", "minimize"):
        raise ValueError(f"direction is {direction!r}; allowed: maximize, minimize")
    if n < 1:
        raise ValueError(f"n is {n}; allowed: 1 or more trials")
    try:
        import optuna
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a search needs Optuna: pip install poise[study]") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    proposing = optuna.create_study(direction=direction, sampler=optuna.samplers.TPESampler(seed=seed))
    executor = executor or Here()
    outcomes: list[Outcome] = []
    values: list[float] = []
    with Results(folder) as results:
        while len(outcomes) < n:
            asked = [proposing.ask() for _ in range(min(executor.count, n - len(outcomes)))]
            trials = [_trial(one, recipe, space, dict(changes or {}), measures, seed) for one in asked]
            run_trials(trials, results, executor, say)
            for one, trial in zip(asked, trials, strict=True):
                outcome = results.outcome(trial)
                assert outcome is not None  # run_trials keeps one of each
                if outcome.status == "finished" and figure not in outcome.figures:
                    raise ValueError(
                        f"runs have no figure {figure!r}; they have {', '.join(outcome.figures) or 'none'}"
                    )
                value = outcome.figures.get(figure, math.nan)
                usable = outcome.status == "finished" and math.isfinite(value)
                proposing.tell(one, *([value] if usable else [None, optuna.trial.TrialState.FAIL]))
                outcomes.append(outcome)
                values.append(value if usable else math.nan)
    usable_ones = [place for place, value in enumerate(values) if not math.isnan(value)]
    pick = max if direction == "maximize" else min
    best = outcomes[pick(usable_ones, key=lambda place: values[place])] if usable_ones else None
    return Found(best, outcomes)


def _trial(
    asked: Any, recipe: str, space: Space, changes: dict[str, Any], measures: tuple[str, ...], seed: int
) -> Trial:
    proposed = {field: _proposed(asked, field, bounds) for field, bounds in space.items()}
    told = ", ".join(
        f"{field} {value:.3g}" if isinstance(value, float) else f"{field} {value}" for field, value in proposed.items()
    )
    return Trial(told, recipe, changes | proposed, seed, measures=measures)


def _proposed(asked: Any, field: str, bounds: Sequence[Any]) -> Any:
    match bounds:
        case list():
            return asked.suggest_categorical(field, bounds)
        case (low, high) | (low, high, "log") if low < high:
            whole = isinstance(low, int) and isinstance(high, int)
            suggest = asked.suggest_int if whole else asked.suggest_float
            return suggest(field, low, high, log=len(bounds) == 3)
    raise ValueError(f"the space of {field} is {bounds!r}; give (low, high), (low, high, 'log') or a list of choices")
