"""LabelMap: a generator of MRI from label maps — a person's anatomy, then a scanner's appearance."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from synth.anatomy import morphometry
from synth.anatomy.labels import label_table
from synth.anatomy.people import (
    DIAGNOSES,
    MEAN_ICV_ML,
    STAGE_MIX,
    Person,
    draw_person,
)
from synth.anatomy.people import effects as read_effects
from synth.anatomy.pose import PoseRange, draw_pose, pull_matrix
from synth.anatomy.source import Anatomy, builtin_path, find_label_maps, load_anatomy, sha256_of
from synth.appearance import contrast as contrasts
from synth.appearance import image as images
from synth.appearance import priors
from synth.appearance.priors import Prior
from synth.errors import UserError
from synth.generator import Generator, Params
from synth.keys import new_seed, rng_for
from synth.labelmap_options import checked_ages, checked_mix, checked_shape, checked_spacing, checked_stages
from synth.sample import Sample, centred_affine

VENTRICLE = "lateral_ventricle"
VENTRICLE_REACH = 0.4  # log units; about the SD between people of one age
STRONG_WARP = 2.0  # times the individual warp's SD: 3 mm, of the size of SynthSeg's U(0, 4) voxels
CORRECTIONS = 28  # at most, of the morphometry against the volumes asked for
SMALLEST_VIEW = 8  # voxels that a field of view keeps along each axis, whatever is cut off

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything of one volume that is small: what the compiled loops, or their GPU twin, need to fill its voxels.

    Attributes:
        index: ``[X + 2, Y + 2, Z + 2]`` uint8 label positions of the anatomy in a border of background.
        mean, sd: ``[L]`` float32 intensity of every label position; ``numbers``: ``[L]`` int16 label written for it.
        nodes: see :class:`synth.appearance.image.Nodes`; ``points``: ``[P, 3]`` sampling offsets, anatomy voxels.
        grain: shares of fine and coarse texture; ``seed``: of the texture.
        acquisition: point spread, voxels, artefacts, noise; ``scanner``: strengths of every effect.
        view: first and last voxel + 1 of the field of view along each axis.
        strip: whether what lies outside the skull is black.
    """

    index: npt.NDArray[np.uint8]
    mean: Floats
    sd: Floats
    numbers: npt.NDArray[np.int16]
    nodes: images.Nodes
    points: Floats
    grain: Floats
    seed: int
    acquisition: images.Acquisition
    scanner: dict[str, Any]
    view: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    strip: bool


class LabelMap(Generator):
    """Synthesis from label maps: draws a person (age, sex, diagnosis, regional volumes) and a scanner, renders both.

    Options from noise to neck are three numbers, probability,low,high: the effect applies to a volume with that
    probability, its strength lies between low and high. Not given, they are the contrast's own (docs/appearance.md).

    Args:
        shape: output voxels left→right, posterior→anterior, inferior→superior.
        spacing: output voxel size in mm, one number or three.
        anatomies: folder (or one file) of FreeSurfer / FastSurfer / SynthSeg style label maps; the built-in one if absent.
        labels: label table (TSV) for numbers that are not FreeSurfer's, see brainloom synth labels.
        contrast: t1w (real T1 contrast with scanner variation), t2w, flair, or random (SynthSeg's mixture, any contrast).
        deformation: mild (rigid, head size, small smooth warp, morphometry; volumes mean something), strong
            (SynthSeg-strength affine and warp on top) or none (the label map as it is, without a person).
        ages: youngest and oldest age drawn, years.
        diagnoses: which of CN, MCI, AD, PD are drawn.
        diagnosis_weights: their weights, in the same order; even if empty.
        stage_weights: how often people with PD are at Hoehn & Yahr stage 1, 2, 3 and 4.
        effects: table (TSV) of what age, sex and disease do to volumes; the built-in one if absent (docs/morphometry.md).
        sites: names of simulated scanners, one drawn per volume; if empty every volume has a scanner of its own.
        rotation: largest rotation about each axis, degrees, drawn evenly; the deformation's own if absent (strong: 15;
            mild: normal, SD 3).
        stretch: largest change of size along each axis, as a share (strong: 0.2; mild: normal, SD 0.015, volume kept).
        shear: largest shear, as a share (strong: 0.012; mild: none).
        shift: largest shift along each axis, mm (strong: 10; mild: normal, SD 2.5).
        warp_mm: SD of the individual smooth warp, mm; strong doubles it.
        warp_length_mm: its correlation length, mm.
        noise: Gaussian noise, SD as a share of white matter.
        rician: Rician noise, SD as a share of white matter.
        bias: bias field, SD of its logarithm.
        blur: point spread, SD in mm.
        texture: factor on the spread within tissues.
        gamma: exponent of the intensities.
        resolution: acquired voxel size in mm, interpolated to spacing.
        slices: distance of thick slices along one axis in mm.
        quantise: intensity steps between 0 and 1.
        motion: ghosts of a moving head, amplitude in mm.
        spikes: k-space spikes, amplitude as a share of white matter.
        gibbs: ringing, share of k-space kept.
        crop: share of the field of view lost along each axis.
        neck: mm kept below the brain.
        strip: probability that skull and scalp are left out.
        flip: mirror half of the volumes, left and right labels swapped.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (160, 192, 160),
        spacing: float | tuple[float, float, float] = 1.0,
        anatomies: Path | None = None,
        labels: Path | None = None,
        contrast: Literal["t1w", "t2w", "flair", "random"] = "t1w",
        deformation: Literal["mild", "strong", "none"] = "mild",
        ages: tuple[float, float] = (20.0, 90.0),
        diagnoses: tuple[str, ...] = DIAGNOSES,
        diagnosis_weights: tuple[float, ...] = (),
        stage_weights: tuple[float, float, float, float] = tuple(STAGE_MIX.values()),  # type: ignore[assignment]
        effects: Path | None = None,
        sites: tuple[str, ...] = (),
        rotation: float | None = None,
        stretch: float | None = None,
        shear: float | None = None,
        shift: float | None = None,
        warp_mm: float = 1.5,
        warp_length_mm: float = 25.0,
        noise: Prior | None = None,
        rician: Prior | None = None,
        bias: Prior | None = None,
        blur: Prior | None = None,
        texture: Prior | None = None,
        gamma: Prior | None = None,
        resolution: Prior | None = None,
        slices: Prior | None = None,
        quantise: Prior | None = None,
        motion: Prior | None = None,
        spikes: Prior | None = None,
        gibbs: Prior | None = None,
        crop: Prior | None = None,
        neck: Prior | None = None,
        strip: float = 0.0,
        flip: bool = True,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in priors.EFFECTS}
        self.shape = checked_shape(shape)
        self.spacing = checked_spacing(spacing)
        self.contrast, self.deformation = contrast, deformation
        self.bias_knots_mm = images.RANDOM_BIAS_KNOTS_MM if contrast == "random" else images.BIAS_KNOTS_MM
        self.ages = checked_ages(ages)
        self.diagnoses = checked_mix(tuple(diagnoses), tuple(diagnosis_weights))
        self.stages = checked_stages(tuple(stage_weights))
        self.sites = tuple(sites)
        self.label_table_path, self.effects_path = labels, effects
        read_effects(effects)
        if not 0 <= warp_mm <= 20:
            raise UserError(f"warp_mm is {warp_mm}; expected a number from 0 to 20")
        if not warp_length_mm > 0:
            raise UserError(f"warp_length_mm is {warp_length_mm}; expected a length above 0 mm")
        if not 0 <= strip <= 1:
            raise UserError(f"strip is {strip}; expected a probability from 0 to 1")
        self.pose_range = PoseRange(rotation, stretch, shear, shift)
        self.warp_mm, self.warp_length_mm = float(warp_mm), float(warp_length_mm)
        self.priors = priors.complete(contrast, given)
        self.strip, self.flip = float(strip), flip
        self.paths = [builtin_path()] if anatomies is None else find_label_maps(Path(anatomies))
        self.own_reference = anatomies is None

    @classmethod
    def complete(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Every effect's probability and range as numbers, also those left to the contrast."""
        kind = arguments.get("contrast", "t1w")
        given = {name: arguments.get(name) for name in priors.EFFECTS}
        if kind not in priors.PRIORS or not all(
            isinstance(prior, (tuple, list, type(None))) for prior in given.values()
        ):
            return arguments  # refused in the constructor's or the command line's own words
        return {**arguments, **{name: list(prior) for name, prior in priors.complete(kind, given).items()}}

    @cached_property
    def _checksums(self) -> list[str]:
        for path in self.paths:  # a damaged or foreign label map is refused before anything is made
            anatomy = self._anatomy(path)
            self._warn_if_finer(anatomy)
            if self.effects_path is not None and self.deformation != "none":
                check_changeable(anatomy, self.effects_path)
        return [sha256_of(path) for path in self.paths]

    def _warn_if_finer(self, anatomy: Anatomy) -> None:
        if any(fine < 0.95 * coarse for fine, coarse in zip(self.spacing, anatomy.spacing, strict=True)):
            ours, theirs = (" × ".join(f"{s:g}" for s in spacing) for spacing in (self.spacing, anatomy.spacing))
            print(
                f"brainloom: warning: spacing {ours} mm is finer than that of label map '{anatomy.name}' ({theirs} mm); "
                "boundaries will be no finer than the label map's",
                file=sys.stderr,
            )

    def parents(self) -> list[dict[str, Any]]:
        """The label maps, each with its checksum, then the user's own tables. The built-in one derives from ICBM152
        2009c and CerebrA."""
        licence = (
            "ICBM152 and CerebrA notices, see synth/anatomy/data/NOTICE" if self.own_reference else "as the label maps'"
        )
        kind = "template" if self.own_reference else "label map"
        found = [(kind, path.name, checksum) for path, checksum in zip(self.paths, self._checksums, strict=True)]
        for what, table in (("label table", self.label_table_path), ("effects table", self.effects_path)):
            if table is not None:
                found.append((what, table.name, sha256_of(table)))
        return [{"kind": what, "name": name, "sha256": checksum, "licence": licence} for what, name, checksum in found]

    def labels(self) -> dict[int, str]:
        """Every label number of the anatomies and its FreeSurfer name."""
        table = label_table(self.label_table_path)
        numbers = {
            n for path in self.paths for label in self._anatomy(path).labels for n in (label.number, label.partner)
        }
        found = {number: table[number].name for number in numbers}
        return dict(sorted(found.items()))

    def anatomy_of(self, params: Params) -> Anatomy:
        """The label map that a record starts from."""
        return self._anatomy(self.paths[params["anatomy"]])

    def _anatomy(self, path: Path) -> Anatomy:
        return load_anatomy(path, self.label_table_path)

    def draw(self, rng: np.random.Generator) -> Params:
        """Which anatomy, who, where the head lies, which scanner, and the seeds of warp and noise."""
        person = draw_person(rng, self.ages, self.diagnoses, self.stages, self.effects_path)
        params: Params = {"anatomy": self._choose(rng, person)}
        params["person"] = None if self.deformation == "none" else person.as_params()
        params["pose"] = draw_pose(rng, self.deformation, self.flip, self.pose_range)
        site = str(rng.choice(self.sites)) if self.sites else None
        params["site"] = site or "random"
        params["scanner"] = contrasts.draw_scanner(rng, site, self.contrast, self.priors)
        drawn = contrasts.draw_contrast(self.contrast, rng, params["scanner"], label_table(self.label_table_path))
        params["contrast"] = contrasts.as_params(drawn)
        params["strip"] = bool(rng.random() < self.strip)
        params["warp_seed"], params["noise_seed"] = new_seed(rng), new_seed(rng)
        return params

    def _choose(self, rng: np.random.Generator, person: Person) -> int:
        """Position of an anatomy; those whose ventricles are near the person's are likelier, so that less is bent."""
        if len(self.paths) == 1 or self.deformation == "none":
            return int(rng.integers(len(self.paths)))
        anatomies = [self._anatomy(path) for path in self.paths]
        targets = person.log_targets(self.effects_path)
        if VENTRICLE not in targets:
            return int(rng.integers(len(self.paths)))
        here = np.log([a.volumes.get(VENTRICLE, 1.0) / 1000 * MEAN_ICV_ML / a.intracranial_ml for a in anatomies])
        weight = np.exp(-0.5 * ((here - targets[VENTRICLE]) / VENTRICLE_REACH) ** 2) + 1e-6
        return int(rng.choice(len(self.paths), p=weight / weight.sum()))

    def render(self, params: Params) -> Sample:
        """The volume: label map of the person as deformed, image of it on the scanner, volumes measured on the label."""
        from synth.appearance import kernel

        plan = self.plan(params)
        label = np.empty(self.shape, np.int16)
        image = np.empty(self.shape, np.float32)
        counts = np.zeros(len(plan.numbers), np.int64)
        kernel.render_labels(
            plan.index,
            plan.mean,
            plan.sd,
            plan.numbers,
            plan.nodes.values,
            plan.nodes.step,
            plan.points,
            plan.grain,
            np.uint64(plan.seed),
            kernel.normal_table(),
            label,
            image,
            counts,
        )
        image = images.acquire(image, plan.acquisition, self.spacing)
        if _blank_outside(label, plan.view):
            counts = np.bincount(label.ravel(), minlength=int(plan.numbers.max()) + 1)[plan.numbers]
            _blank_outside(image, plan.view)
        if plan.strip:
            kernel.blank_outside(label, image)
        images.finish(image, plan.scanner)
        covariates = self._covariates(params) | volumes_of(
            dict(zip(plan.numbers, counts, strict=True)), self.spacing, self.label_table_path
        )
        return Sample(image[None], label, covariates, centred_affine(self.shape, self.spacing))

    def plan(self, params: Params) -> Plan:
        """What the voxels of one volume are filled from; a pure function of ``params``."""
        anatomy = self.anatomy_of(params)
        person = Person(**params["person"]) if params["person"] else None
        size = 1.0 if person is None else (person.icv_ml / anatomy.intracranial_ml) ** (1 / 3)
        matrix = pull_matrix(params["pose"], size, self.shape, self.spacing, anatomy.spacing, anatomy.centre)
        rng = rng_for(params["noise_seed"], 0, "appearance")
        averaging = 1.0 if self.contrast == "random" else min(1.0, float(np.prod(self.spacing)) ** -0.5)
        scanner = dict(params["scanner"])  # noise and texture are those of 1 mm voxels; larger ones average them
        for name in ("noise", "rician"):
            scanner[name] = None if scanner[name] is None else scanner[name] * averaging
        nodes = self._nodes(anatomy, person, params, matrix, rng)
        keep = np.array([not params["strip"] or label.is_intracranial for label in anatomy.labels])
        pairs = np.array([params["contrast"][label.structure] for label in anatomy.labels], np.float32)
        pairs[:, 1] *= scanner["texture"] or 0.0
        written = [label.partner if params["pose"]["flip"] else label.number for label in anatomy.labels]
        coarse = scanner["coarse"]
        level = contrasts.RANDOM_LEVEL if self.contrast == "random" else contrasts.WHITE
        return Plan(
            index=_padded(anatomy),
            mean=np.ascontiguousarray(pairs[:, 0] * keep),
            sd=np.ascontiguousarray(pairs[:, 1] * keep),
            numbers=np.where(keep, written, 0).astype(np.int16),
            nodes=nodes,
            points=images.sampling_points(matrix, self.spacing),
            grain=np.array([averaging * np.sqrt(1 - coarse), np.sqrt(coarse)], np.float32),
            seed=new_seed(rng),
            acquisition=images.plan_acquisition(self.shape, scanner, self.spacing, level, params["noise_seed"]),
            scanner=scanner,
            view=self._view(anatomy, matrix, scanner, rng),
            strip=params["strip"],
        )

    def _view(
        self, anatomy: Anatomy, matrix: Floats, scanner: dict[str, Any], rng: np.random.Generator
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Voxels inside the field of view, after what ``crop`` and ``neck`` take away."""
        low, high = [0, 0, 0], list(self.shape)
        shares, sides = rng.random((3, 2)), rng.random(3)
        if scanner["crop"] is not None:
            for axis, n in enumerate(self.shape):
                lost = round(scanner["crop"] * shares[axis, 0] * n)
                below = round(lost * sides[axis])
                low[axis], high[axis] = below, n - (lost - below)
        if scanner["neck"] is not None:
            bottom = np.array([*anatomy.centre[:2], anatomy.brain[2][0]]) - matrix[:, 3]
            at = float(np.linalg.solve(matrix[:, :3].astype(np.float64), bottom)[2])
            low[2] = max(low[2], round(at - scanner["neck"] / self.spacing[2]))
        low = [min(a, b - SMALLEST_VIEW) for a, b in zip(low, high, strict=True)]
        return tuple((max(a, 0), b) for a, b in zip(low, high, strict=True))  # type: ignore[return-value]

    def _nodes(
        self, anatomy: Anatomy, person: Person | None, params: Params, matrix: Floats, rng: np.random.Generator
    ) -> images.Nodes:
        """Nodes of the volume: pose, then morphometry and individual warp in one flow, bias field, coarse texture."""
        bias = params["scanner"]["bias"] or 0.0
        if person is None:
            still = images.NodeGrid(self.shape, self.spacing, matrix, np.zeros(3, np.float32), np.ones(3, np.float32))
            return still.nodes(np.zeros((2, 2, 2, 3), np.float32), bias, rng, self.bias_knots_mm)
        strong = self.deformation == "strong"  # volumes mean less there: a coarse grid, nothing corrected
        box = morphometry.velocity_grid(
            anatomy,
            tuple(read_effects(self.effects_path)),
            morphometry.COARSE_GRID_MM if strong else morphometry.GRID_MM,
        )
        warp_mm = STRONG_WARP * self.warp_mm if strong else self.warp_mm
        own = None
        if warp_mm > 0:
            own = morphometry.random_velocity(
                rng_for(params["warp_seed"], 0, "warp"), box, warp_mm, self.warp_length_mm
            )
        step = np.array(box.step, np.float32)
        grid = images.NodeGrid(
            self.shape, self.spacing, matrix, (np.array(box.low) + (step - 1) / 2).astype(np.float32), step
        )
        reader = None if strong else grid.reader(anatomy)
        wanted = wanted_changes(anatomy, person, self.own_reference, self.effects_path)
        moved = morphometry.person_displacement(box, wanted, own, reader, 0 if strong else self._corrections())
        return grid.nodes(moved, bias, rng, self.bias_knots_mm)

    def _corrections(self) -> int:
        """Fewer on coarse grids, whose voxels cannot tell the difference."""
        return max(3, round(CORRECTIONS * min(1.0, morphometry.FINE_MM / max(self.spacing))))

    def _covariates(self, params: Params) -> dict[str, float | str]:
        name = self.anatomy_of(params).name
        covariates: dict[str, float | str] = {"anatomy": name, "site": params["site"]}
        if params["person"]:
            person = Person(**params["person"])
            covariates |= {"age": person.age, "sex": person.sex, "diagnosis": person.diagnosis}
            covariates |= {"hoehn_yahr": float(person.stage), "intracranial_asked_ml": person.icv_ml}
        return covariates


def wanted_changes(
    anatomy: Anatomy, person: Person, own_reference: bool, table: Path | None = None
) -> dict[str, float]:
    """Structure → log volume change, head size apart, that turns the anatomy into the person.

    The built-in anatomy stands for the mean healthy person of 30 (``own_reference``); of other label maps the age is
    unknown, so their volumes, scaled to the mean head, are brought to the person's own.
    """
    targets = person.log_targets(table)
    scale = MEAN_ICV_ML / anatomy.intracranial_ml
    changes = {}
    for name, target in targets.items():
        if anatomy.volumes.get(name, 0.0) <= 0:
            continue
        here = read_effects(table)[name].ml_at_30 if own_reference else anatomy.volumes[name] / 1000 * scale
        changes[name] = target - float(np.log(here))
    return changes


@lru_cache(maxsize=32)
def _padded(anatomy: Anatomy) -> npt.NDArray[np.uint8]:
    """Label positions in a border of background, where everything outside the map ends."""
    return np.pad(anatomy.index, 1)


def _blank_outside(array: npt.NDArray[Any], view: tuple[tuple[int, int], ...]) -> bool:
    """Set what lies outside the field of view to 0, in place; whether there was anything."""
    cut = False
    for axis, (low, high) in enumerate(view):
        line = np.moveaxis(array, axis, 0)
        if low > 0 or high < len(line):
            line[:low], line[high:], cut = 0, 0, True
    return cut


def check_changeable(anatomy: Anatomy, table: Path) -> None:
    """Raise UserError when a user's effects table names a structure that the anatomy lacks: nothing can shrink there."""
    missing = [name for name in read_effects(table) if anatomy.volumes.get(name, 0.0) <= 0]
    if missing:
        raise UserError(
            f"effects table '{table}' changes {', '.join(missing)}, of which label map '{anatomy.name}' holds no voxel; "
            "take the row out of the table, or the label map out of the folder"
        )


def volumes_of(
    counts: dict[int, int], spacing: tuple[float, float, float], table: Path | None = None
) -> dict[str, float | str]:
    """``volume_…`` in mm³ of every intracranial structure with voxels, from label number → voxels as written."""
    voxel = float(np.prod(spacing))
    volumes: dict[str, float | str] = {}
    total = 0.0
    for entry in label_table(table).values():
        count = float(counts.get(entry.number, 0))
        if entry.is_intracranial and count:
            volumes[entry.covariate] = count * voxel
            total += count * voxel
    return {**volumes, "volume_intracranial": total}
