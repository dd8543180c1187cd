"""How much memory this process has taken at most."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_mb() -> float:
    """Highest resident memory of this process in MB (10⁶ bytes).

    Linux: VmHWM, because getrusage's ru_maxrss also remembers the parent that the process was forked from.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
