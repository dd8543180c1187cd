"""report.html: one self-contained file that says what was run, on whom, and what came out (see :mod:`benchmarks.page`)."""

from benchmarks.page.findings import findings
from benchmarks.page.story import Story
from benchmarks.page.write import write_report

__all__ = ["Story", "findings", "write_report"]
