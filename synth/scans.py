"""Scans: a generator of volumes from the real scans of a BIDS folder."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from synth.anatomy.source import sha256_of
from synth.bids import (
    COLUMN_NAMES,
    PARTICIPANTS,
    SIMULATED_PARENT,
    entities,
    find_scans,
    inside,
    licence_of,
    read_json,
    read_participants,
    read_table,
    stated_name,
    with_our_names,
)
from synth.brain import Brain, brain_of
from synth.covariates import covariates_of
from synth.errors import UserError
from synth.generator import Generator, Params
from synth.labelmap_options import checked_shape, checked_spacing
from synth.nifti import head_middle, moved_by, read_scan, resample, resample_through, voxel_digest
from synth.sample import Covariate, Sample, centred_affine

READERS = 4  # threads that check scans before anything is made


class Scans(Generator):
    """Volumes from real scans: a BIDS folder's, turned to RAS+, their heads in the middle of one grid.

    Sample i of a corpus is the i-th scan in order of names: sessions and runs are samples of their own. Image:
    ``[1, D, H, W]``, the scan's 99.5th percentile is 1, cut at 1.5. Covariates: ``participant_id``, ``session``, and the
    columns of participants.tsv, over which those of ``sub-*_sessions.tsv`` go; age, sex, diagnosis (CN, MCI, AD, PD or
    as given) and site under these names, whatever the source calls them.

    Args:
        folder: BIDS folder; nothing outside it is read, links that lead out are refused.
        shape: voxels along left→right, posterior→anterior, inferior→superior.
        spacing: voxel size in mm, one number or three.
        strip: leave skull and scalp out, by deepbet (pip install deepbet==1.0.2); the brain's box is then the middle.
        suffix: which scans, by the last part of their name: T1w, T2w, FLAIR…
        align: bring the brain onto the built-in anatomy, affinely (12 degrees of freedom); needs strip or stripped.
        n4: take the brain's bias field out, by N4 on a 4 mm grid; needs strip or stripped.
        stripped: the scans show the brain alone already: what is above zero is brain.

    Raises:
        UserError: no such folder, no scan in it, a name or link that leads out of it, a table that is wrong, options
            that need a package which is missing or the brain alone.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int, int] = (160, 192, 160),
        spacing: float | tuple[float, float, float] = 1.0,
        strip: bool = False,
        suffix: str = "T1w",
        align: bool = False,
        n4: bool = False,
        stripped: bool = False,
    ) -> None:
        self.folder, self.suffix, self.strip = Path(folder), suffix, strip
        self.align, self.n4, self.stripped = align, n4, stripped
        self.shape, self.spacing = checked_shape(shape), checked_spacing(spacing)
        self._check_brain_options()
        self.names = find_scans(self.folder, suffix)
        self.tables: list[str] = []
        """The tables that covariates were read from, as relative paths."""
        self._people = self._read_people()
        self._covariates = dict(zip(self.names, self._read_covariates(), strict=True))

    def _check_brain_options(self) -> None:
        if self.strip and self.stripped:
            raise UserError(
                "strip and stripped are both set; expected strip for whole heads, stripped for brains alone"
            )
        for name, wanted in (("align", self.align), ("n4", self.n4)):
            if wanted and not self._brain_alone:
                raise UserError(
                    f"{name} needs the brain alone; add strip, or stripped if the scans are stripped already"
                )
        if self.strip:
            from synth import strip

            strip.check_installed()
        if self.align or self.n4:
            from synth import align

            align.check_installed()

    @property
    def _brain_alone(self) -> bool:
        return self.strip or self.stripped

    def __len__(self) -> int:
        """How many scans there are."""
        return len(self.names)

    @property
    def without_scan(self) -> list[str]:
        """Participants that participants.tsv lists and that have no scan."""
        return sorted(set(self._people) - {entities(name)["participant_id"] for name in self.names})

    def _read_covariates(self) -> list[dict[str, Covariate]]:
        import pandas as pd

        rows = []
        visits = self._visits()
        for name in self.names:
            who = entities(name)
            row = dict(self._people.get(who["participant_id"], {}))
            visit = visits.get((who["participant_id"], who.get("session", "")), {})
            rows.append({**row, **{key: value for key, value in visit.items() if value == value}, **who})
        table = pd.DataFrame(rows)
        for column in table.columns:
            if column == "age" or str(column).startswith(
                "volume_"
            ):  # what learns from them takes numbers only: no "89+"
                table[column] = pd.to_numeric(table[column], errors="coerce")
        return covariates_of(table, ("participant_id", "session", *COLUMN_NAMES))

    def _read_people(self) -> dict[str, dict[Any, Any]]:
        """participant_id → columns of participants.tsv; empty without one."""
        if not inside(self.folder, PARTICIPANTS).is_file():
            return {}
        self.tables.append(PARTICIPANTS)
        return _rows(with_our_names(read_participants(self.folder)))

    def _visits(self) -> dict[tuple[str, str], dict[Any, Any]]:
        """(participant, session) → columns of the participant's sessions table, where there is one."""
        found = {}
        for person in sorted({entities(name)["participant_id"] for name in self.names}):
            name = f"{person}/{person}_sessions.tsv"
            if not inside(self.folder, name).is_file():
                continue
            table = read_table(self.folder / name, "session_id")
            if "session_id" not in table.columns or table["session_id"].duplicated().any():
                raise UserError(f"'{self.folder / name}' is no table of sessions; expected one row a session_id")
            self.tables.append(name)
            rows = _rows(with_our_names(table.set_index("session_id")))
            found.update({(person, str(session)): row for session, row in rows.items()})
        return found

    def draw(self, rng: np.random.Generator) -> Params:
        """One of the scans, all equally likely."""
        return self._params(int(rng.integers(len(self))))

    def draw_at(self, index: int, rng: np.random.Generator) -> Params:
        """The ``index``-th scan. Raises UserError where there are fewer."""
        if not 0 <= index < len(self):
            raise UserError(
                f"there is no scan {index} in '{self.folder}'; expected 0 to {len(self) - 1}: ask for --count {len(self)}"
            )
        return self._params(index)

    def _params(self, index: int) -> Params:
        name = self.names[index]
        params: Params = {"scan": name, "sha256": sha256_of(inside(self.folder, name))}
        return {**params, **self._measured(params)} if self.align or self.n4 else params

    def _measured(self, params: Params) -> Params:
        """What of the preparation is found out from the scan itself: brain volume, bias field, place on the template."""
        from synth.align import RegistrationError, align

        path = self.folder / params["scan"]
        try:
            brain = self._brain(path, params)
        except UserError as error:  # of one scan: it fails alone, though it be the first
            raise RegistrationError(str(error)) from error
        told = brain.as_params()
        return told | {"align": align(brain, path).as_params()} if self.align else told

    def _brain(self, path: Path, params: Params) -> Brain:
        return brain_of(path, params["sha256"], self.stripped, self.n4)

    def render(self, params: Params) -> Sample:
        """The scan on the grid.

        Raises:
            UserError: a scan that is none of the folder's, was changed since its record was drawn, is damaged, not 3-D,
                empty or without a head, or in which no brain is found; it is named.
        """
        path, grid = self._path(params), (self.shape, self.spacing)
        if self._brain_alone:
            from synth.align import to_scan_of

            brain = self._brain(path, params)
            to_scan = to_scan_of(params["align"]) if self.align else moved_by(brain.middle)
            image = resample_through(brain.image, brain.affine, to_scan, grid)
        else:
            head, affine = read_scan(path)
            image = resample(head, affine, head_middle(head, affine, path), grid)
        return Sample(image[None], None, self._covariates[params["scan"]], centred_affine(*grid))

    def _path(self, params: Params) -> Path:
        name = str(params.get("scan"))
        real = inside(self.folder, name)
        if name not in self._covariates:
            raise UserError(f"'{name}' is none of the {len(self)} {self.suffix} scans of '{self.folder}'")
        if sha256_of(real) != params.get("sha256"):
            raise UserError(f"scan '{self.folder / name}' was changed since its record was drawn; put the old one back")
        return self.folder / name

    def parents(self) -> list[dict[str, Any]]:
        """Every scan, the tables read, the networks used; where the people are simulated, the corpus they are from.

        Every scan is read for it, so that a damaged one is refused before anything is made.
        """
        return self._parents

    @cached_property
    def _parents(self) -> list[dict[str, Any]]:
        licence = licence_of(self.folder)
        with ThreadPoolExecutor(READERS) as pool:
            checksums = list(pool.map(self._check, self.names))
        found = _parents_of("scan", self.names, [file for file, _ in checksums], licence)
        data_set = stated_name(self.folder)
        for parent, (_, voxels) in zip(found, checksums, strict=True):  # by these a copy, or another visit, is known
            parent |= {"voxels": voxels, **({"data_set": data_set} if data_set else {})}
        found += _parents_of("table", self.tables, [sha256_of(inside(self.folder, t)) for t in self.tables], licence)
        simulated = inside(self.folder, SIMULATED_PARENT)
        if simulated.is_file():
            record = {"kind": "corpus", "name": SIMULATED_PARENT.as_posix(), **read_json(simulated)}
            found.append({**record, "sha256": sha256_of(simulated), "licence": licence})
        if self.strip:
            from synth.strip import strip_parents

            found += strip_parents()
        if self.align:
            from synth.align import template_parents

            found += template_parents()
        return found

    def _check(self, name: str) -> tuple[str, str]:
        """sha256 of the file, and of the voxels, of a scan that can be read and shows a head."""
        path = self.folder / name
        image, affine = read_scan(path)
        head_middle(image, affine, path)
        return sha256_of(path), voxel_digest(image)


def _rows(table: Any) -> dict[str, dict[Any, Any]]:
    """Index → columns that hold a value."""
    return {str(name): row for name, row in table.to_dict("index").items()}


def _parents_of(kind: str, names: Iterable[str], checksums: Iterable[str], licence: str) -> list[dict[str, Any]]:
    return [
        {"kind": kind, "name": name, "sha256": checksum, "licence": licence}
        for name, checksum in zip(names, checksums, strict=True)
    ]
