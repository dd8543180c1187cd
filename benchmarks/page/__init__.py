"""The report: one self-contained page, a plain-text twin, and everything of it as one results.json."""
