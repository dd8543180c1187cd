"""Which versions made something."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Package → installed version of brainloom, Python and every package named.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    found = {name: importlib.metadata.version(name) for name in ("brainloom", *packages)}
    return {"python": platform.python_version(), **found}
