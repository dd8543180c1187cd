"""Label maps as anatomies: the built-in one, or any folder of FreeSurfer-style segmentations."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.anatomy.labels import Label, State, check_known, label_table, table_state
from synth.anatomy.people import effects
from synth.errors import UserError
from synth.sample import spacing_of

MINIMUM_BRAIN_MM3 = 100_000.0  # less is no brain, even of a newborn
FEW_VOXELS = 20
MOST_LABELS = 256  # positions are kept as uint8
SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One label map, canonical RAS+, cropped to the head.

    Attributes:
        name: file name without suffix, or ``builtin``.
        index: ``[D, H, W]`` uint8, position of each voxel's label in ``labels``.
        labels: the labels present, in ascending number; position 0 is background (what lies outside the map).
        spacing: mm along D, H, W.
        brain: first and last voxel of the brain (sulcal CSF and vessels, which reach down the neck, left out) by axis.
        volumes: structure → mm³ (both sides), extra-cerebral ones left out.
    """

    name: str
    index: npt.NDArray[np.uint8]
    labels: tuple[Label, ...]
    spacing: tuple[float, float, float]
    brain: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    volumes: dict[str, float]

    @property
    def centre(self) -> tuple[float, float, float]:
        """Voxel coordinates of the middle of the brain."""
        x, y, z = ((low + high) / 2 for low, high in self.brain)
        return x, y, z

    @property
    def intracranial_ml(self) -> float:
        """Everything inside the skull, in mL."""
        return sum(self.volumes.values()) / 1000


def find_label_maps(folder: Path) -> list[Path]:
    """Every label map under ``folder``, sorted by name. Raises UserError when there is no such folder, or none in it."""
    if folder.is_file() and folder.name.endswith(SUFFIXES):
        return [folder]
    if not folder.is_dir():
        raise UserError(
            f"anatomies: there is no folder '{folder}'; expected one with label maps ({', '.join(SUFFIXES)})"
        )
    found = sorted(path for path in folder.rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())
    if not found:
        raise UserError(
            f"anatomies: folder '{folder}' holds no label map; expected files ending in {', '.join(SUFFIXES)}"
        )
    return found


def builtin_path() -> Path:
    """The shipped whole-head label map (ICBM152 2009c and CerebrA, see the NOTICE beside it)."""
    return Path(str(resources.files("synth.anatomy") / "data" / "builtin_dseg.nii.gz"))


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_anatomy(path: Path, table: Path | None = None) -> Anatomy:
    """Read, check and canonicalise one label map; ``table`` is a user's label table (TSV), laid over the built-in one.

    Raises:
        UserError: unreadable or truncated file, not 3-D, NaN, non-integer or unknown labels, nothing intracranial, a
            structure that changes with age and disease on one side only; a table that is wrong.
    """
    path = path.resolve()
    state = path.stat()
    return _load_anatomy(path, state.st_mtime_ns, state.st_size, None if table is None else table_state(table))


@lru_cache(maxsize=32)
def _load_anatomy(path: Path, changed: int, size: int, table: State | None) -> Anatomy:
    data, spacing = read_label_map(path)
    own = table[0] if table else None
    if data.min() < 0 or data.max() > 65535:
        check_known([data.min(), data.max()], f"label map '{path}'", own)
    present = np.bincount(data.ravel(), minlength=1) > 0
    present[0] = True  # position 0 stands for what lies outside the map
    numbers = np.flatnonzero(present)
    check_known(numbers, f"label map '{path}'", own)
    if len(numbers) > MOST_LABELS:
        raise UserError(f"label map '{path}' holds {len(numbers)} labels; expected {MOST_LABELS} or fewer")
    labels = tuple(label_table(own)[int(number)] for number in numbers)
    index = _cropped((np.cumsum(present) - 1).astype(np.uint8)[data])
    _check_sides(labels, np.bincount(index.ravel(), minlength=len(labels)), path)
    inside = np.array([label.is_intracranial and label.structure not in ("sulcal_csf", "vessel") for label in labels])[
        index
    ]
    if inside.sum() * np.prod(spacing) < MINIMUM_BRAIN_MM3:
        raise UserError(f"label map '{path}' holds {int(inside.sum())} brain voxels; expected a segmented brain")
    lines = [np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    brain = tuple((int(line[0]), int(line[-1])) for line in lines)
    voxel = float(np.prod(spacing))
    counts = np.bincount(index.ravel(), minlength=len(labels))
    volumes: dict[str, float] = {}
    for label, count in zip(labels, counts, strict=True):
        if label.is_intracranial:
            volumes[label.structure] = volumes.get(label.structure, 0.0) + float(count) * voxel
    name = "builtin" if path == builtin_path() else path.name.split(".")[0]
    return Anatomy(name, np.ascontiguousarray(index, dtype=np.uint8), labels, spacing, brain, volumes)  # type: ignore[arg-type]


def _check_sides(labels: tuple[Label, ...], voxels: npt.NDArray[np.int64], path: Path) -> None:
    """Structures whose volume follows age and disease need both sides. Lesions, vessels and such may lie on one; so may
    a ventricle, since one horn can be closed, and a structure of a few voxels, of which coarse maps lose a side."""
    count = {label.number: int(n) for label, n in zip(labels, voxels, strict=True)}
    present = {label.number for label in labels}
    for structure in effects():
        parts = [label for label in labels if label.structure == structure and label.tissue != "csf"]
        paired = any(label.partner in present for label in parts)  # true of what has no sides, too
        few = sum(count[label.number] for label in parts) <= FEW_VOXELS
        if parts and not paired and not few and len({label.side for label in parts} - {""}) < 2:
            shown = ", ".join(f"{label.number} {label.name} without {label.partner}" for label in parts[:3])
            more = " …" if len(parts) > 3 else ""
            raise UserError(
                f"label map '{path}' holds {structure} on one side only ({shown}{more}); expected both sides of every "
                "structure that changes with age and disease: label the other side too, or mend partner in the label table"
            )


def _cropped(index: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The box that holds everything but background."""
    held = index > 0
    lines = [np.flatnonzero(held.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return index[tuple(slice(line[0], line[-1] + 1) if line.size else slice(0, 1) for line in lines)]


def read_label_map(path: Path) -> tuple[npt.NDArray[np.int32], tuple[float, float, float]]:
    """``[D, H, W]`` label numbers in RAS+ order, and spacing in mm along those axes.

    Raises:
        UserError: unreadable or truncated file, not 3-D, NaN or non-integer values.
    """
    import nibabel

    try:
        image: Any = nibabel.load(path)
        if len(image.shape) != 3 and not (len(image.shape) == 4 and image.shape[3] == 1):
            raise UserError(f"label map '{path}' has {len(image.shape)} axes {image.shape}; expected a 3-D label map")
        image = nibabel.as_closest_canonical(nibabel.squeeze_image(image))
        data = np.asanyarray(image.dataobj)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"label map '{path}' cannot be read ({reason}); it is damaged or not a NIfTI/MGH file"
        ) from error
    if not np.issubdtype(data.dtype, np.integer):
        if not np.isfinite(data).all():
            raise UserError(f"label map '{path}' holds NaN or infinity; expected whole label numbers")
        if not np.array_equal(np.rint(data), data):
            raise UserError(
                f"label map '{path}' holds non-integer values; expected whole label numbers (is it an image?)"
            )
    return data.astype(np.int32), spacing_of(image.affine)
