"""LabelMap: a generator of MRI from label maps — a person's anatomy, then a scanner's appearance."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from synth.anatomy import morphometry
from synth.anatomy.labels import label_table
from synth.anatomy.people import (
    DIAGNOSES,
    ICV_FEMALE_ML,
    ICV_MALE_RATIO,
    Person,
    draw_person,
    effects,
)
from synth.anatomy.source import Anatomy, builtin_path, find_label_maps, load_anatomy, sha256_of
from synth.appearance import contrast as contrasts
from synth.appearance.image import finish
from synth.errors import UserError, near
from synth.generator import Generator, Params
from synth.keys import new_seed, rng_for
from synth.sample import Sample, centred_affine

MEAN_ICV_ML = ICV_FEMALE_ML * (1 + ICV_MALE_RATIO) / 2
VENTRICLE = "lateral_ventricle"
VENTRICLE_REACH = 0.4  # log units; about the SD between people of one age
POINT_MM = 1.5  # partial volume is averaged over points about this far apart


class LabelMap(Generator):
    """Synthesis from label maps: draws a person (age, sex, diagnosis, regional volumes) and a scanner, renders both.

    Args:
        shape: output voxels left→right, posterior→anterior, inferior→superior.
        spacing: output voxel size in mm, one number or three.
        anatomies: folder (or one file) of FreeSurfer / FastSurfer / SynthSeg style label maps; the built-in one if absent.
        contrast: t1w (real T1 contrast with scanner variation) or random (SynthSeg's mixture, any contrast).
        deformation: mild (rigid, head size, small smooth warp, morphometry; volumes mean something), strong
            (SynthSeg-strength affine and warp on top) or none (the label map as it is, without a person).
        ages: youngest and oldest age drawn, years.
        diagnoses: which of CN, MCI, AD, PD are drawn.
        diagnosis_weights: their weights, in the same order; even if empty.
        sites: names of simulated scanners, one drawn per volume; if empty every volume has a scanner of its own.
        warp_mm: SD of the individual smooth warp, mm.
        warp_length_mm: its correlation length, mm.
        noise: highest noise SD, as a share of white matter.
        bias: highest SD of the log bias field.
        strip: true leaves out skull and scalp.
        flip: mirror half of the volumes, left and right labels swapped.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (160, 192, 160),
        spacing: float | tuple[float, float, float] = 1.0,
        anatomies: Path | None = None,
        contrast: Literal["t1w", "random"] = "t1w",
        deformation: Literal["mild", "strong", "none"] = "mild",
        ages: tuple[float, float] = (20.0, 90.0),
        diagnoses: tuple[str, ...] = DIAGNOSES,
        diagnosis_weights: tuple[float, ...] = (),
        sites: tuple[str, ...] = (),
        warp_mm: float = 1.5,
        warp_length_mm: float = 25.0,
        noise: float = 0.06,
        bias: float = 0.25,
        strip: bool = False,
        flip: bool = True,
    ) -> None:
        self.shape = _shape(shape)
        self.spacing = _spacing(spacing)
        self.contrast, self.deformation = contrast, deformation
        self.ages = _ages(ages)
        self.diagnoses = _mix(tuple(diagnoses), tuple(diagnosis_weights))
        self.sites = tuple(sites)
        for name, value in (("warp_mm", warp_mm), ("noise", noise), ("bias", bias)):
            if not 0 <= value <= 20:
                raise UserError(f"{name} is {value}; expected a number from 0 to 20")
        if warp_length_mm <= 0:
            raise UserError(f"warp_length_mm is {warp_length_mm}; expected a length above 0 mm")
        self.warp_mm, self.warp_length_mm = float(warp_mm), float(warp_length_mm)
        self.noise, self.bias, self.strip, self.flip = float(noise), float(bias), strip, flip
        self.paths = [builtin_path()] if anatomies is None else find_label_maps(Path(anatomies))
        self.own_reference = anatomies is None

    @cached_property
    def _checksums(self) -> list[str]:
        for path in self.paths:  # a damaged or foreign label map is refused before anything is made
            load_anatomy(path)
        return [sha256_of(path) for path in self.paths]

    def parents(self) -> list[dict[str, Any]]:
        """The label maps, each with its checksum. The built-in one derives from ICBM152 2009c and CerebrA."""
        licence = (
            "ICBM152 and CerebrA notices, see synth/anatomy/data/NOTICE" if self.own_reference else "as the label maps'"
        )
        return [
            {
                "kind": "template" if self.own_reference else "label map",
                "name": path.name,
                "sha256": checksum,
                "licence": licence,
            }
            for path, checksum in zip(self.paths, self._checksums, strict=True)
        ]

    def labels(self) -> dict[int, str]:
        """Every label number of the anatomies and its FreeSurfer name."""
        table = label_table()
        numbers = {
            n for path in self.paths for label in load_anatomy(path).labels for n in (label.number, label.partner)
        }
        found = {number: table[number].name for number in numbers}
        return dict(sorted(found.items()))

    def draw(self, rng: np.random.Generator) -> Params:
        """Which anatomy, who, where the head lies, which scanner, and the seeds of warp and noise."""
        person = draw_person(rng, self.ages, self.diagnoses)
        params: Params = {"anatomy": self._choose(rng, person)}
        params["person"] = None if self.deformation == "none" else person.as_params()
        params["pose"] = self._draw_pose(rng)
        site = str(rng.choice(self.sites)) if self.sites else None
        params["site"] = site or "random"
        scanner = contrasts.draw_scanner(rng, site, self.noise, self.bias)
        params["scanner"] = scanner
        chosen = contrasts.t1w(rng, scanner) if self.contrast == "t1w" else contrasts.random_mixture(rng)
        params["contrast"] = contrasts.as_params(chosen)
        params["warp_seed"], params["noise_seed"] = new_seed(rng), new_seed(rng)
        return params

    def _choose(self, rng: np.random.Generator, person: Person) -> int:
        """Position of an anatomy; those whose ventricles are near the person's are likelier, so that less is bent."""
        if len(self.paths) == 1 or self.deformation == "none":
            return int(rng.integers(len(self.paths)))
        anatomies = [load_anatomy(path) for path in self.paths]
        here = np.log([a.volumes.get(VENTRICLE, 1.0) / 1000 * MEAN_ICV_ML / a.intracranial_ml for a in anatomies])
        weight = np.exp(-0.5 * ((here - person.log_targets()[VENTRICLE]) / VENTRICLE_REACH) ** 2) + 1e-6
        return int(rng.choice(len(self.paths), p=weight / weight.sum()))

    def _draw_pose(self, rng: np.random.Generator) -> dict[str, Any]:
        """Rotation (degrees), stretch and shear (log-scale and share), shift (mm), mirror."""
        if self.deformation == "none":
            return {"rotation": [0.0] * 3, "stretch": [0.0] * 3, "shear": [0.0] * 3, "shift": [0.0] * 3, "flip": False}
        strong = self.deformation == "strong"
        rotation = rng.uniform(-15, 15, 3) if strong else rng.normal(0, 3, 3)
        stretch = np.log(rng.uniform(0.8, 1.2, 3)) if strong else rng.normal(0, 0.015, 3)
        shear = rng.uniform(-0.012, 0.012, 3) if strong else np.zeros(3)
        shift = rng.normal(0, 2.5, 3)
        pose = {"rotation": rotation, "stretch": stretch, "shear": shear, "shift": shift}
        drawn: dict[str, Any] = {name: [round(float(v), 4) for v in value] for name, value in pose.items()}
        return {**drawn, "flip": bool(self.flip and rng.random() < 0.5)}

    def render(self, params: Params) -> Sample:
        """The volume: label map of the person as deformed, image of it on the scanner, volumes measured on the label."""
        from synth.appearance.kernel import render_labels, source_positions

        anatomy = load_anatomy(self.paths[params["anatomy"]])
        person = Person(**params["person"]) if params["person"] else None
        box = morphometry.velocity_grid(anatomy, tuple(effects()))
        moved = self._displacement(anatomy, box, person, params)
        mean, sd = self._tissue_arrays(anatomy, params["contrast"])
        label = np.empty(self.shape, np.uint8)
        image, spread = np.empty(self.shape, np.float32), np.empty(self.shape, np.float32)
        step = np.array(box.step, np.float32)
        source = np.empty((*self.shape, 3), np.float32)
        matrix = self._matrix(anatomy, person, params["pose"])
        source_positions(matrix, moved, np.array(box.low, np.float32) + (step - 1) / 2, step, source)
        render_labels(anatomy.index, mean, sd, source, self._parts(), label, image, spread)
        image = finish(image, spread, params["scanner"], self.spacing, rng_for(params["noise_seed"], 0, "appearance"))
        numbers = np.array([label_.number for label_ in anatomy.labels], np.int16)
        if params["pose"]["flip"]:
            numbers = np.array([label_.partner for label_ in anatomy.labels], np.int16)
        written = numbers[label]
        if self.strip:
            image = image * np.array([label_.is_intracranial for label_ in anatomy.labels], np.float32)[label]
            written = np.where([label_.is_intracranial for label_ in anatomy.labels], numbers, 0).astype(np.int16)[
                label
            ]
        covariates = self._covariates(anatomy, person, params) | measure_volumes(written, self.spacing)
        return Sample(image[None], written, covariates, centred_affine(self.shape, self.spacing))

    def _parts(self) -> int:
        return int(np.clip(round(max(self.spacing) / POINT_MM + 0.2), 1, 3))

    def _displacement(
        self, anatomy: Anatomy, box: morphometry.Field, person: Person | None, params: Params
    ) -> npt.NDArray[np.float32]:
        """``[X, Y, Z, 3]`` pull-back displacement in anatomy voxels: morphometry and individual warp in one flow."""
        if person is None:
            return np.zeros((*box.shape, 3), np.float32)
        flow = morphometry.morphometry_velocity(anatomy, box, wanted_changes(anatomy, person, self.own_reference))
        rng = rng_for(params["warp_seed"], 0, "warp")
        warp_mm = 2.0 * self.warp_mm if self.deformation == "strong" else self.warp_mm
        if warp_mm > 0:
            flow += morphometry.random_velocity(rng, box, warp_mm, self.warp_length_mm)
        return morphometry.displacement(flow, box)

    def _tissue_arrays(self, anatomy: Anatomy, contrast: dict[str, list[float]]) -> tuple[Any, Any]:
        pairs = [contrast[label.structure] for label in anatomy.labels]
        if self.strip:
            pairs = [
                pair if label.is_intracranial else [0.0, 0.0] for pair, label in zip(pairs, anatomy.labels, strict=True)
            ]
        mean, sd = np.array(pairs, np.float32).T
        return np.ascontiguousarray(mean), np.ascontiguousarray(sd)

    def _matrix(self, anatomy: Anatomy, person: Person | None, pose: dict[str, Any]) -> npt.NDArray[np.float32]:
        """3×4, output voxel → anatomy voxel (pull-back): pose and head size about the intracranial centre."""
        angles = np.deg2rad(pose["rotation"])
        linear = np.eye(3)
        for axis, angle in enumerate(angles):
            a, b = [other for other in range(3) if other != axis]
            turn = np.eye(3)
            turn[a, a] = turn[b, b] = np.cos(angle)
            turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
            linear = linear @ turn
        shear = np.eye(3)
        shear[0, 1], shear[0, 2], shear[1, 2] = pose["shear"]
        size = 1.0 if person is None else np.clip((person.icv_ml / anatomy.intracranial_ml) ** (1 / 3), 0.8, 1.25)
        push = linear @ shear @ np.diag(np.exp(pose["stretch"]) * size)
        if pose["flip"]:
            push = push @ np.diag([-1.0, 1.0, 1.0])
        pull = np.linalg.inv(push)
        to_mm = centred_affine(self.shape, self.spacing)
        matrix = (
            np.diag(1 / np.array(anatomy.spacing))
            @ pull
            @ np.column_stack([to_mm[:3, :3], to_mm[:3, 3] - np.array(pose["shift"])])
        )
        matrix[:, 3] += anatomy.centre
        return matrix.astype(np.float32)

    def _covariates(self, anatomy: Anatomy, person: Person | None, params: Params) -> dict[str, float | str]:
        covariates: dict[str, float | str] = {"anatomy": anatomy.name, "site": params["site"]}
        if person is not None:
            covariates |= {"age": person.age, "sex": person.sex, "diagnosis": person.diagnosis}
            covariates |= {"hoehn_yahr": float(person.stage), "intracranial_asked_ml": person.icv_ml}
        return covariates


def wanted_changes(anatomy: Anatomy, person: Person, own_reference: bool) -> dict[str, float]:
    """Structure → log volume change, head size apart, that turns the anatomy into the person.

    The built-in anatomy stands for the mean healthy person of 30 (``own_reference``); of other label maps the age is
    unknown, so their volumes, scaled to the mean head, are brought to the person's own.
    """
    targets = person.log_targets()
    scale = MEAN_ICV_ML / anatomy.intracranial_ml
    changes = {}
    for name, target in targets.items():
        if anatomy.volumes.get(name, 0.0) <= 0:
            continue
        here = effects()[name].ml_at_30 if own_reference else anatomy.volumes[name] / 1000 * scale
        changes[name] = target - float(np.log(here))
    return changes


def measure_volumes(label: npt.NDArray[np.int16], spacing: tuple[float, float, float]) -> dict[str, float | str]:
    """``volume_…`` in mm³ of every intracranial structure, measured on the label map as written, absent ones 0."""
    voxel = float(np.prod(spacing))
    counts = np.bincount(label.ravel(), minlength=2100)
    volumes: dict[str, float | str] = {}
    total = 0.0
    for entry in label_table().values():
        if entry.is_intracranial and counts[entry.number]:
            volumes[entry.covariate] = float(counts[entry.number]) * voxel
            total += float(counts[entry.number]) * voxel
    return {**volumes, "volume_intracranial": total}


def _shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3 or any(int(n) != n or not 8 <= n <= 1024 for n in shape):
        raise UserError(f"shape is {','.join(map(str, shape))}; expected three whole numbers from 8 to 1024")
    return int(shape[0]), int(shape[1]), int(shape[2])


def _spacing(spacing: float | tuple[float, ...]) -> tuple[float, float, float]:
    three = (spacing,) * 3 if isinstance(spacing, (int, float)) else tuple(spacing)
    if len(three) != 3 or any(not 0.2 <= s <= 20 for s in three):
        raise UserError(f"spacing is {spacing}; expected one or three voxel sizes from 0.2 to 20 mm")
    return float(three[0]), float(three[1]), float(three[2])


def _ages(ages: tuple[float, ...]) -> tuple[float, float]:
    if len(ages) != 2 or not 20 <= ages[0] <= ages[1] <= 90:
        raise UserError(
            f"ages is {','.join(map(str, ages))}; expected youngest,oldest within 20,90 (the range of the effects table)"
        )
    return float(ages[0]), float(ages[1])


def _mix(names: tuple[str, ...], weights: tuple[float, ...]) -> dict[str, float]:
    for name in names:
        if name not in DIAGNOSES:
            raise UserError(f"diagnoses holds '{name}'; expected some of {near(name, DIAGNOSES, 4)}")
    if (
        not names
        or (weights and len(weights) != len(names))
        or any(w < 0 for w in weights)
        or (weights and sum(weights) <= 0)
    ):
        raise UserError(
            f"diagnosis_weights has {len(weights)} numbers for {len(names)} diagnoses; expected one each, none negative"
        )
    return dict(zip(names, weights or (1.0,) * len(names), strict=True))
