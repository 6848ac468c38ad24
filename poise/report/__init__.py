"""What people look at: a self-contained HTML page of a run, and runs beside each other, made from folders alone."""

from poise.report.comparison import compare_runs
from poise.report.page import write_report

__all__ = ["compare_runs", "write_report"]
