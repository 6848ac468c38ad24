"""What people look at: one self-contained HTML page for a run, made from its folder alone."""

from poise.report.page import write_report

__all__ = ["write_report"]
