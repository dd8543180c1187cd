"""``brainloom synth labels``: a label table to complete."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from synth.anatomy.labels import HIGHEST, Label, as_tsv, label_table
from synth.errors import UserError


def labels(folder: Path | None = None, /, *, out: Path, labels: Path | None = None) -> int:
    """Write a label table: the whole one, or that of the labels in a folder of label maps.

    Numbers that no table knows get a row without a tissue, to be completed; then give the file to the generator:
    --generator.labels FILE.

    Args:
        folder: label maps (or one file); without it the whole table is written.
        out: TSV to write; a file that is there is kept unless it is the same.
        labels: your own label table, laid over the built-in one.
    """
    table = label_table(labels)
    if folder is None:
        save_table(as_tsv(table.values()), out)
        print(f"{out}: {len(table)} labels, the whole {'built-in ' if labels is None else ''}table")
        return 0
    found = census(folder)
    known = sorted(set(found) & set(table))
    unknown = sorted(set(found) - set(table))
    rows: dict[int, Label] = {n: table[n] for number in known for n in (number, table[number].partner)}
    rows |= {n: label for n, label in table.items() if label != label_table().get(n)}  # every row of one's own
    save_table(as_tsv(rows.values(), unknown), out)
    print("mean volumes over the label maps that hold the label:")
    for number in sorted(found):
        print(f"  {_line(number, table.get(number), found[number])}")
    print(f"{out}: {len(rows) + len(unknown)} labels" + _what_next(out, unknown))
    return 0


def _line(number: int, label: Label | None, tally: Tally) -> str:
    about = f"{label.name} ({label.structure}, {label.tissue})" if label else "unknown"
    return f"{number} {about}: {np.mean(tally.millilitres):.4g} mL, in {tally.maps} of {tally.of} label maps"


def _what_next(out: Path, unknown: list[int]) -> str:
    if not unknown:
        return ", all known"
    return (
        f", {len(unknown)} unknown: give each of them a name, structure and tissue (and partner, where there are two "
        f"sides), then --generator.labels {out}"
    )


@dataclass
class Tally:
    """Of one label: mL in each label map that holds it, and of how many label maps."""

    of: int
    millilitres: list[float] = field(default_factory=list)

    @property
    def maps(self) -> int:
        """How many label maps hold it."""
        return len(self.millilitres)


def census(folder: Path) -> dict[int, Tally]:
    """Label number → volumes, over every label map under ``folder``; 0, what lies outside, is left out.

    Raises:
        UserError: no label map there, one that cannot be read, or a label number outside 0 to 32767.
    """
    from synth.anatomy.source import find_label_maps, read_label_map
    from synth.progress import progress_bar

    paths = find_label_maps(folder)
    found: dict[int, Tally] = {}
    with progress_bar(f"read {folder.name}", "label maps") as progress:
        for at, path in enumerate(paths):
            data, spacing = read_label_map(path)
            if data.min() < 0 or data.max() > HIGHEST:
                odd = data.min() if data.min() < 0 else data.max()
                raise UserError(f"label map '{path}' holds the label {odd}; expected numbers from 0 to {HIGHEST}")
            counts = np.bincount(data.ravel())
            for number in np.flatnonzero(counts[1:]) + 1:
                tally = found.setdefault(int(number), Tally(len(paths)))
                tally.millilitres.append(float(counts[number]) * float(np.prod(spacing)) / 1000)
            progress(at + 1, len(paths))
    return found


def save_table(text: str, out: Path) -> None:
    """Write ``text`` to ``out``. Raises UserError when another file is there, or the place cannot be written."""
    try:
        if out.exists() and (out.is_dir() or out.read_bytes() != text.encode()):
            raise UserError(f"--out {out} exists and holds something else; give another name, or move it away")
        out.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written ({error.strerror}); expected a file in a folder that exists"
        ) from error
