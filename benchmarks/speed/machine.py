"""What a time was measured on: the machine and the versions of everything that took part."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("brainloom", "numpy", "scipy", "numba", "torch", "torchio", "SimpleITK", "cornucopia", "nobrainer")
STORES = ("zarr", "numcodecs", "ray", "nibabel", "monai", "zarrs", "tensorstore", "webdataset", "litdata")


def describe() -> dict[str, Any]:
    """Processor, cores, memory (GB), load before the first row, system, and the version of every package or None."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cores_allowed": _cores_allowed(),
        "ram_gb": ram_gb(),
        "load_before": None if load is None else round(load, 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in (*PACKAGES, *STORES)},
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def ram_gb() -> float | None:
    """Physical memory in GB (10⁹ bytes), or None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def version_of(package: str) -> str | None:
    """The installed version; 'not stated' for one that is importable without metadata; None for one that is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not stated" if importlib.util.find_spec(package) else None


def _cores_allowed() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
