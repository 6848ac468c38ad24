"""The claims page: ``docs/claims.md``, its figures in ``docs/claims/``, and the README's table, between markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.studies.study import Judged
from poise.training.run import write_text

START, END = "<!-- claims: start -->", "<!-- claims: end -->"
"""the README's table stands between them; ``poise study`` replaces it"""


def write_page(judged: Sequence[Judged], out: str | Path = "docs") -> Path:
    """Write ``claims.md`` and ``claims/NAME.png`` into a folder, and the table into a README.md beside that folder.

    The README is left as it is where it has no markers.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    out = Path(out)
    (out / "claims").mkdir(parents=True, exist_ok=True)
    parts = [_HEAD, _table(judged, "")]
    for one in judged:
        if one.judgement is not None:
            draw(one, out / "claims" / f"{one.claim.name}.png")
        parts.append(_section(one))
    page = out / "claims.md"
    write_text(page, "\n\n".join(parts) + "\n")
    readme = out.resolve().parent / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8")
        before, start, rest = text.partition(START)
        _, end, after = rest.partition(END)
        if start and end:
            table = _table(judged, f"{out.name}/claims.md")
            write_text(readme, f"{before}{START}\n{table}\n{END}{after}")
    return page


def draw(one: Judged, path: Path) -> Path:
    """Draw a claim's figure into a PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a claim's figure needs matplotlib: pip install poise[study]") from None
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    one.claim.draw(one.arms, figure)
    figure.savefig(path, metadata={"Software": None})  # equal pictures, equal files
    return path


_HEAD = """# The papers' claims

Each is judged by a rule that was written before its runs were looked at; *holds*, *does not hold* and *not decided* are
all results, of the budget named beside them. How they are run, what the intervals mean and how to add one:
[studies.md](studies.md). Written by `poise study`; do not edit."""


def _verdict(one: Judged) -> str:
    return f"**{one.judgement.verdict}**" if one.judgement else f"not judged: {one.missing}"


def _table(judged: Sequence[Judged], page: str) -> str:
    rows = [
        {
            "#": one.claim.number,
            "claim": f"[{one.claim.sentence}]({page}#{one.claim.name})",
            "paper": one.claim.place,
            "runs": len(one.outcomes),
            "budget": one.budget,
            "verdict": _verdict(one),
        }
        for one in judged
    ]
    return table(rows)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, with the columns of all of them in the order they come."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    written = [columns, ["---"] * len(columns)] + [[_cell(row.get(name, "")) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in written)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _section(one: Judged) -> str:
    claim, found = one.claim, one.judgement
    parts = [f'<a id="{claim.name}"></a>\n\n## {claim.number}. {claim.sentence}']
    parts.append(f"{claim.place}. The paper reports: {claim.reported}")
    if found is None:
        return "\n\n".join([*parts, f"Not judged at the budget *{one.budget}*: {one.missing}."])
    seeds = sorted({outcome.trial.seed for outcome in one.outcomes})
    failed = sum(outcome.status == "failed" for outcome in one.outcomes)
    minutes = sum(outcome.seconds for outcome in one.outcomes) / 60
    parts.append(f"At the budget *{one.budget}*: **{found.verdict}**. {found.words}")
    if found.rows:
        parts.append(table(found.rows))
    parts.append(f"![{claim.name}](claims/{claim.name}.png)")
    counts = {"run": len(one.outcomes), "arm": len(one.arms), "seed": len(seeds)}
    runs, arms, of = (f"{n} {what}{'s' * (n != 1)}" for what, n in counts.items())
    told = f"{runs} in {arms}, {of}, {minutes:.1f} minutes of runs"
    diverged = f", of which {failed} failed (not finite)" if failed else ""
    parts.append(f"`poise study {claim.name} --budget {one.budget}`: {told}{diverged}.")
    return "\n\n".join(parts)
