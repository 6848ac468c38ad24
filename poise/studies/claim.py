"""A claim as data: a paper's sentence and place, the runs that test it, and the rule by which it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from poise.studies.trial import Outcome, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arms = Mapping[str, list[Outcome]]
"""outcomes by arm, both in the grid's order"""

BUDGETS = ("mini", "small", "paper")
"""mini: minutes on two CPU cores; small: all claims in a GPU-day; paper: the published grid"""


@dataclass(frozen=True)
class Judgement:
    """What a judge finds.

    Attributes:
        verdict: all three are results; "not decided" where the runs leave it open.
        words: why, with the numbers it rests on.
        rows: the table shown, a line each, all with the same columns.
    """

    verdict: Literal["holds", "does not hold", "not decided"]
    words: str
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Attributes:
        number: its place in the table. name: by which ``poise study`` calls it: "settings-a-f".
        sentence: what is claimed, in our words. place: "Miyato et al. 2018, §4.1, fig. 1".
        reported: what the paper reports.
        grids: by budget, what gives its runs.
        judge: arms → judgement; its rule was written before a run was looked at. Only finished and failed runs come.
        draw: draws arms into a matplotlib figure, on the paper's own axes, the number of seeds in it.
        gpu_hours: of the paper's budget, estimated. estimated_from: in words, from what.
    """

    number: int
    name: str
    sentence: str
    place: str
    reported: str
    grids: Mapping[str, Callable[[], list[Trial]]]
    judge: Callable[[Arms], Judgement]
    draw: Callable[[Arms, Figure], None]
    gpu_hours: float
    estimated_from: str = ""
