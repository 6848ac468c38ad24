"""Where outcomes are kept: one SQLite file, in which each run stands once, by its identity.

Tables: ``runs`` (identity, work, recipe, changes, seed, status, reason, seconds, finished), ``figures`` (identity,
name, value), ``curves`` (identity, name, points as JSON), ``measured`` (identity, measure), ``grids`` (claim, budget,
place, arm, identity), ``data`` (source, path, sample). A notebook may read it while a study runs.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from poise.studies.trial import Curve, Outcome, Trial

FOLDER = Path("runs/studies")
"""where studies lie by default: ``results.sqlite``, and the runs' folders beside it"""

_TABLES = """
CREATE TABLE IF NOT EXISTS runs (identity TEXT PRIMARY KEY, work TEXT, recipe TEXT, changes TEXT, seed INTEGER,
    status TEXT, reason TEXT, seconds REAL, finished TEXT);
CREATE TABLE IF NOT EXISTS figures (identity TEXT, name TEXT, value REAL, PRIMARY KEY (identity, name));
CREATE TABLE IF NOT EXISTS curves (identity TEXT, name TEXT, points TEXT, PRIMARY KEY (identity, name));
CREATE TABLE IF NOT EXISTS measured (identity TEXT, measure TEXT, PRIMARY KEY (identity, measure));
CREATE TABLE IF NOT EXISTS grids (claim TEXT, budget TEXT, place INTEGER, arm TEXT, identity TEXT,
    PRIMARY KEY (claim, budget, place));
CREATE TABLE IF NOT EXISTS data (source TEXT PRIMARY KEY, path TEXT, sample TEXT);
"""


class Results:
    """The store of a folder, open: a context manager. What was saved is on the disk, also after a kill.

    Args:
        folder: made where it is missing.
    """

    def __init__(self, folder: str | Path = FOLDER) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "results.sqlite"
        self._database = sqlite3.connect(self.path, timeout=60)
        self._database.executescript(_TABLES)

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *failure: Any) -> None:
        self._database.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within it, no other process runs studies into the folder. A kill ends it, too.

        Raises:
            RuntimeError: one does already.
        """
        lock = sqlite3.connect(self.folder / "running.sqlite", timeout=0, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            raise RuntimeError(
                f"another study is running in {self.folder}: wait for its end, or give another --folder"
            ) from None
        else:
            yield
        finally:
            lock.close()

    def save(self, outcome: Outcome) -> None:
        """Keep an outcome. Of a run that had finished before, what is new is added, and its seconds stay."""
        trial, key = outcome.trial, outcome.trial.identity
        changes = json.dumps(dict(trial.changes), sort_keys=True, ensure_ascii=False)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._database as database:  # one transaction
            known = self._status(key)
            if known in ("finished", "failed"):
                if outcome.status == "crashed":
                    return  # a measure that broke takes nothing away
            else:
                for table in ("runs", "figures", "curves", "measured"):
                    database.execute(f"DELETE FROM {table} WHERE identity = ?", (key,))
                row = (key, trial.work, trial.recipe, changes, trial.seed, outcome.status, outcome.reason)
                database.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, outcome.seconds, now))
            database.executemany(
                "INSERT OR REPLACE INTO figures VALUES (?, ?, ?)",
                [(key, name, float(value)) for name, value in outcome.figures.items()],
            )
            database.executemany(
                "INSERT OR REPLACE INTO curves VALUES (?, ?, ?)",
                [(key, name, _to_json(curve)) for name, curve in outcome.curves.items()],
            )
            if outcome.status != "crashed":
                taken = [(key, measure) for measure in trial.measures]
                database.executemany("INSERT OR REPLACE INTO measured VALUES (?, ?)", taken)

    def _status(self, identity: str) -> str | None:
        row = self._database.execute("SELECT status FROM runs WHERE identity = ?", (identity,)).fetchone()
        return None if row is None else row[0]

    def outcome(self, trial: Trial) -> Outcome | None:
        """What came of a trial, whatever arm it was run for; None before it was run."""
        key = trial.identity
        query = "SELECT status, reason, seconds FROM runs WHERE identity = ?"
        row = self._database.execute(query, (key,)).fetchone()
        if row is None:
            return None
        select = "SELECT name, {} FROM {} WHERE identity = ? ORDER BY rowid"
        pairs = self._database.execute(select.format("value", "figures"), (key,))
        figures = {name: math.nan if value is None else value for name, value in pairs}  # SQLite has no NaN
        pairs = self._database.execute(select.format("points", "curves"), (key,))
        curves = {name: _from_json(points) for name, points in pairs}
        status, reason, seconds = row
        return Outcome(trial, status, reason, seconds, figures, curves)

    def missing(self, trial: Trial) -> Trial | None:
        """What of a trial is still to be done: all, some of its measures, or None. A crashed one is tried again."""
        if self._status(trial.identity) not in ("finished", "failed"):
            return trial
        query = "SELECT measure FROM measured WHERE identity = ?"
        taken = {measure for (measure,) in self._database.execute(query, (trial.identity,))}
        left = tuple(measure for measure in trial.measures if measure not in taken)
        return replace(trial, measures=left) if left and trial.work == "train" else None

    def plan(self, claim: str, budget: str, trials: Sequence[Trial]) -> None:
        """Write down a claim's grid, in place of the one that was there."""
        with self._database as database:
            database.execute("DELETE FROM grids WHERE claim = ? AND budget = ?", (claim, budget))
            rows = [(claim, budget, place, trial.arm, trial.identity) for place, trial in enumerate(trials)]
            database.executemany("INSERT INTO grids VALUES (?, ?, ?, ?, ?)", rows)

    def data(self, source: str) -> tuple[str, str] | None:
        """The path that a source's images had when first opened for this store, and what was seen in them, or None."""
        return self._database.execute("SELECT path, sample FROM data WHERE source = ?", (source,)).fetchone()

    def keep_data(self, source: str, path: str, sample: str) -> None:
        """Write down what a source's images are."""
        with self._database as database:
            database.execute("INSERT OR REPLACE INTO data VALUES (?, ?, ?)", (source, path, sample))

    def rows(self) -> Iterable[dict[str, Any]]:
        """Each run of each claim's grid that was run: claim, budget, arm, the run's columns, and its figures."""
        columns = "claim, budget, arm, identity, recipe, changes, seed, work, status, reason, seconds, finished"
        query = f"SELECT {columns} FROM grids JOIN runs USING (identity) ORDER BY claim, budget, place"
        for row in self._database.execute(query).fetchall():
            found = dict(zip(columns.split(", "), row, strict=True))
            select = "SELECT name, value FROM figures WHERE identity = ? ORDER BY rowid"
            yield found | dict(self._database.execute(select, (found["identity"],)).fetchall())


def _to_json(curve: Curve) -> str:
    return json.dumps([[step, value if math.isfinite(value) else None] for step, value in curve])


def _from_json(points: str) -> Curve:
    return [(step, math.nan if value is None else value) for step, value in json.loads(points)]


def results(folder: str | Path = FOLDER) -> Any:
    """All outcomes as a pandas ``DataFrame``: a line for each run of each claim, a column for each figure.

    Raises:
        ModuleNotFoundError: pandas is missing. ValueError: no study was run in that folder.
    """
    try:
        import pandas
    except ModuleNotFoundError:
        raise ModuleNotFoundError("results() gives a pandas DataFrame: pip install poise[study]") from None
    if not (Path(folder) / "results.sqlite").is_file():
        raise ValueError(f"{folder} holds no results.sqlite; poise study NAME --folder {folder} writes it")
    with Results(folder) as kept:
        return pandas.DataFrame(list(kept.rows()))
