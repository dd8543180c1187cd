"""Pictures of corpora: a montage, and a viewer that turns a few volumes. Real people are never shown."""

from __future__ import annotations

import base64
import gzip
import json
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np

from synth.corpus import Corpus
from synth.picture import figure, png_bytes
from synth.provenance import origin
from synth.sample import spacing_of

SHOWN = 2  # volumes of one corpus in the viewer
LARGEST = 64  # voxels along an axis of an embedded volume


def made(paths: list[Path]) -> list[Corpus]:
    """The corpora that may be shown: those that hold no scan of a person."""
    return [corpus for corpus in map(Corpus, paths) if origin(corpus) != "real"]


def mosaic(corpus: Corpus, rows: int = 4) -> str:
    """PNG data address of volumes beside their label maps, spread over the corpus."""
    step = max(1, len(corpus) // rows)
    picture = png_bytes(figure(corpus, list(range(0, len(corpus), step))[:rows]))
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def nifti(corpus: Corpus, index: int) -> bytes:
    """One volume as gzip-compressed 8-bit NIfTI-1, thinned to at most 64 voxels an axis."""
    import nibabel as nib

    image = np.asarray(corpus.image(index)[0], dtype=np.float32)
    affine = np.asarray(corpus.entry(index)["affine"], dtype=float)
    step = max(1, -(-max(image.shape) // LARGEST))
    image = image[::step, ::step, ::step]
    low, high = np.percentile(image, [1, 99.8])
    levels = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    packed = nib.Nifti1Image(levels, affine @ np.diag([step, step, step, 1.0])).to_bytes()
    return gzip.compress(packed, 9, mtime=0)


def pictures(paths: list[Path]) -> str:
    """Montages of every corpus that may be shown, and the viewer."""
    corpora = made(paths)
    if not corpora:
        return ""
    parts = ['<section aria-labelledby="volumes"><h2 id="volumes">Volumes and their label maps</h2>', viewer(corpora)]
    for corpus in corpora:
        spacing = " × ".join(f"{s:g}" for s in spacing_of(corpus.entry(0)["affine"]))
        shape = " × ".join(str(size) for size in corpus.image_shape[1:])
        name = escape(corpus.path.name)
        parts.append(
            f"<h3>{name}</h3><p>{len(corpus)} volumes of {shape} voxels at {spacing} mm; axial, coronal, sagittal; left is "
            f'left.</p><img alt="volumes of {name} beside their label maps" src="{mosaic(corpus)}">'
        )
    return "".join(parts) + "</section>"


def viewer(corpora: list[Corpus]) -> str:
    """The canvas, its controls, the volumes and NiiVue, packed until the reader asks for them."""
    volumes = {
        f"{corpus.path.name} #{index}": base64.b64encode(nifti(corpus, index)).decode()
        for corpus in corpora
        for index in range(0, len(corpus), max(1, len(corpus) // SHOWN))[:SHOWN]
    }
    bundle = (resources.files("benchmarks.page") / "vendor" / "niivue.umd.js.gz").read_bytes()
    content = json.dumps(volumes).replace("<", "\\u003c")
    choices = "".join(f"<option>{escape(name)}</option>" for name in volumes)
    return (
        '<div id="viewer"><p><button type="button" id="viewer-open">Open the 3D viewer</button> '
        f'<label>Volume <select id="viewer-volume">{choices}</select></label> '
        '<label>Turn <input id="viewer-turn" type="range" min="0" max="360" value="110"></label></p>'
        '<div id="viewer-stage" hidden><canvas id="viewer-canvas" tabindex="0" role="img" aria-label="volume, turned by dragging"></canvas></div>'
        '<p id="viewer-says" role="status"></p>'
        "<p><small>NiiVue 0.69.0, BSD-2-Clause, embedded in this file.</small></p></div>"
        f'<script type="application/json" id="viewer-volumes">{content}</script>'
        f'<script type="text/plain" id="viewer-bundle">{base64.b64encode(bundle).decode()}</script>'
    )
