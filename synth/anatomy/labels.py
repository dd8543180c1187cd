"""The label table: for every label number its name, structure, tissue, left/right partner and generation class.

The built-in rows are FreeSurfer's, FastSurfer's and SynthSeg's numbers; a user's TSV overrides and extends them (see
docs/labels.md). Whatever contradicts itself is refused with the file and the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from synth.errors import UserError, near

TISSUES = ("background", "wm", "gm", "csf", "bone", "marrow", "soft", "fluid", "muscle", "vessel", "air")
EXTRACEREBRAL = ("background", "bone", "marrow", "soft", "fluid", "muscle", "vessel", "air")
COLUMNS = ("label", "name", "structure", "tissue", "partner", "class")
REQUIRED = COLUMNS[:4]
HIGHEST = 32767  # a corpus stores label maps as int16
TAKEN = ("volume_intracranial",)  # covariates that are no label's

State = tuple[Path, int, int]


@dataclass(frozen=True)
class Label:
    """One row of the table: number, FreeSurfer name, structure (both sides share it), tissue class, partner's number
    (its own where there are no sides), generation class (labels of one class share one draw of contrast)."""

    number: int
    name: str
    structure: str
    tissue: str
    partner: int
    generation_class: str

    @property
    def is_intracranial(self) -> bool:
        """Brain, ventricles and sulcal CSF; neither skull, scalp nor what lies outside."""
        return self.tissue not in EXTRACEREBRAL and self.structure not in ("spinal_cord", "optic_nerve")

    @property
    def covariate(self) -> str:
        """Name of the volume covariate, such as ``volume_left_hippocampus``."""
        return "volume_" + self.name.lower().replace("-", "_")

    @property
    def side(self) -> str:
        """``left`` or ``right`` where the name begins so (``Left``, ``ctx-lh``, ``Right``, ``ctx-rh``), else empty."""
        name = self.name.lower().replace("_", "-")
        if name.startswith(("left", "ctx-lh")):
            return "left"
        return "right" if name.startswith(("right", "ctx-rh")) else ""


def label_table(path: Path | None = None) -> Mapping[int, Label]:
    """Label number → row: the built-in rows, those of the TSV at ``path`` overriding and extending them.

    A built-in row gives way when a row of the user's has its number, its name, or the number of its partner.

    Raises:
        UserError: the TSV is unreadable, a row is wrong, or rows contradict each other.
    """
    return _builtin() if path is None else _with_own(*table_state(path))


def table_state(path: Path) -> State:
    """Resolved path, time of change (ns) and size of a user's table: what its cached content depends on."""
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(
            f"label table '{path}' cannot be read ({error.strerror}); expected a TSV, as brainloom synth labels writes it"
        ) from error
    return path.resolve(), state.st_mtime_ns, state.st_size


@lru_cache(maxsize=1)
def _builtin() -> Mapping[int, Label]:
    text = (resources.files("synth.anatomy") / "data" / "labels.tsv").read_text(encoding="utf-8")
    return {number: label for number, (label, _) in _parse(text, "built-in label table", {}).items()}


@lru_cache(maxsize=8)
def _with_own(path: Path, changed: int, size: int) -> Mapping[int, Label]:
    from synth.anatomy.contradictions import merged

    where = f"label table '{path}'"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); expected a TSV file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 text (byte {error.start}); save it as tab-separated UTF-8") from error
    return merged(_builtin(), _parse(text, where, _builtin()), where)


def as_tsv(labels: Iterable[Label], unfinished: Iterable[int] = ()) -> str:
    """The text of a table with these rows, and for every ``unfinished`` number one whose tissue the user must fill in."""
    rows = {x.number: (x.number, x.name, x.structure, x.tissue, x.partner, x.generation_class) for x in labels}
    rows |= {n: (n, f"unknown-{n}", f"unknown_{n}", "", n, "") for n in unfinished}
    lines = [
        f"# tissue: one of {', '.join(TISSUES)}",
        "# partner: number of the same structure on the other side, or the label itself; class: labels of one class "
        "share one draw of contrast",
        "\t".join(COLUMNS),
        *("\t".join(map(str, row)) for _, row in sorted(rows.items())),
    ]
    return "\n".join(lines) + "\n"


def _parse(text: str, where: str, known: Mapping[int, Label]) -> dict[int, tuple[Label, int]]:
    """Number → row and its line. ``known`` rows lend their generation class to rows of the same structure."""
    classes = {label.structure: label.generation_class for label in known.values()}
    columns: list[str] = []
    rows: dict[int, tuple[Label, int]] = {}
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip() or content.startswith("#"):
            continue
        cells = [cell.strip() for cell in content.rstrip().split("\t")]
        if not columns:
            columns = _header(cells, where)
            continue
        if len(cells) > len(columns):
            raise UserError(f"{where}, line {line} has {len(cells)} cells; expected {len(columns)}, one a column")
        label = _row(dict(zip(columns, cells, strict=False)), f"{where}, line {line}", classes)
        if label.number in rows and rows[label.number][0] != label:
            raise UserError(
                f"{where}, line {line} gives label {label.number} another content than line {rows[label.number][1]}; "
                "expected one row a label"
            )
        rows.setdefault(label.number, (label, line))
    if not columns:
        _header([], where)
    return rows


def _header(cells: list[str], where: str) -> list[str]:
    missing = [name for name in REQUIRED if name not in cells]
    if missing:
        raise UserError(
            f"{where} has no column '{missing[0]}'; expected a first line with {', '.join(REQUIRED)} and, if wanted, "
            "partner and class, separated by tabs"
        )
    for name in cells:
        if name not in COLUMNS or cells.count(name) > 1:
            problem = "twice" if name in COLUMNS else f"which is not known; near: {near(name, COLUMNS)}"
            raise UserError(f"{where} has the column '{name}' {problem}; expected {', '.join(COLUMNS)}")
    return cells


def _row(cells: dict[str, str], where: str, classes: Mapping[str, str]) -> Label:
    """One checked row; ``where`` names file and line."""
    number = _number(cells.get("label", ""), where, "label")
    name, structure, tissue = (cells.get(column, "") for column in REQUIRED[1:])
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"{where}: the name of label {number} is '{name}'; expected letters, digits, _ and - alone")
    generation_class = cells.get("class", "") or classes.get(structure, structure)
    for column, word in (("structure", structure), ("class", generation_class)):
        if not re.fullmatch(r"[a-z0-9_]+", word):
            raise UserError(
                f"{where}: the {column} of label {number} ({name}) is '{word}'; expected lower-case letters, digits and "
                "_ alone, as in 'cerebral_cortex'"
            )
    if not tissue:
        raise UserError(
            f"{where}: the tissue of label {number} ({name}) is empty; complete the row with one of {', '.join(TISSUES)}"
        )
    if tissue not in TISSUES:
        raise UserError(
            f"{where}: the tissue of label {number} ({name}) is '{tissue}', which is none; near: "
            f"{near(tissue, TISSUES)}"
        )
    partner = _number(cells.get("partner", "") or str(number), where, "partner")
    label = Label(number, name, structure, tissue, partner, generation_class)
    if label.covariate in TAKEN:
        raise UserError(
            f"{where}: '{name}' cannot be the name of label {number}; {label.covariate} is all inside the skull"
        )
    if number == 0 and (structure, tissue, partner) != ("background", "background", 0):
        raise UserError(f"{where}: label 0 is what lies outside; expected structure and tissue background, no partner")
    return label


def _number(text: str, where: str, column: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > HIGHEST:
        raise UserError(f"{where}: {column} is '{text}'; expected a whole number from 0 to {HIGHEST}")
    return int(text)


def check_known(numbers: Iterable[int], where: str, table: Path | None = None) -> None:
    """Raise UserError when a label map holds numbers that the table (built in, or the TSV ``table``) does not know."""
    unknown = sorted(set(map(int, numbers)) - set(label_table(table)))
    if unknown:
        shown = ", ".join(map(str, unknown[:8])) + (" …" if len(unknown) > 8 else "")
        name, own = ("built in", "") if table is None else (f"'{table}' and the built-in one", f"--labels {table} ")
        raise UserError(
            f"{where} holds labels that the label table ({name}) does not know: {shown}; brainloom synth labels FOLDER "
            f"{own}--out labels.tsv writes a table with rows for them to complete, --generator.labels labels.tsv takes it"
        )
