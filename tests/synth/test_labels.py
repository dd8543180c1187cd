"""The label table: FreeSurfer's numbers, mutual partners, one name a number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.anatomy.labels import TISSUES, Label, as_tsv, check_known, label_table
from synth.anatomy.source import load_anatomy
from synth.errors import UserError
from synth.label_cli import census
from tests.conftest import Run, spheres_in_a_box

# FreeSurferColorLUT.txt
FREESURFER = {
    2: "Left-Cerebral-White-Matter",
    3: "Left-Cerebral-Cortex",
    4: "Left-Lateral-Ventricle",
    5: "Left-Inf-Lat-Vent",
    7: "Left-Cerebellum-White-Matter",
    8: "Left-Cerebellum-Cortex",
    10: "Left-Thalamus",
    11: "Left-Caudate",
    12: "Left-Putamen",
    13: "Left-Pallidum",
    14: "3rd-Ventricle",
    15: "4th-Ventricle",
    16: "Brain-Stem",
    17: "Left-Hippocampus",
    18: "Left-Amygdala",
    24: "CSF",
    26: "Left-Accumbens-area",
    28: "Left-VentralDC",
    41: "Right-Cerebral-White-Matter",
    42: "Right-Cerebral-Cortex",
    43: "Right-Lateral-Ventricle",
    44: "Right-Inf-Lat-Vent",
    46: "Right-Cerebellum-White-Matter",
    47: "Right-Cerebellum-Cortex",
    49: "Right-Thalamus",
    50: "Right-Caudate",
    51: "Right-Putamen",
    52: "Right-Pallidum",
    53: "Right-Hippocampus",
    54: "Right-Amygdala",
    58: "Right-Accumbens-area",
    60: "Right-VentralDC",
    77: "WM-hypointensities",
    85: "Optic-Chiasm",
    251: "CC_Posterior",
    255: "CC_Anterior",
    1006: "ctx-lh-entorhinal",
    2006: "ctx-rh-entorhinal",
    1035: "ctx-lh-insula",
}


@pytest.mark.parametrize("number, name", FREESURFER.items())
def test_numbers_are_those_of_freesurfer(number: int, name: str) -> None:
    assert label_table()[number].name == name


def test_partners_are_mutual_and_of_one_structure_and_tissue() -> None:
    for number, label in label_table().items():
        partner = label_table()[label.partner]
        assert partner.partner == number
        assert (partner.structure, partner.tissue) == (label.structure, label.tissue)


def test_left_has_its_partner_on_the_right() -> None:
    pairs = (("Left", "Right"), ("ctx-lh", "ctx-rh"))
    for label in label_table().values():
        for left, right in pairs:
            if label.name.startswith(left):
                assert label_table()[label.partner].name == label.name.replace(left, right, 1)
            elif label.name.startswith(right):
                assert label_table()[label.partner].name == label.name.replace(right, left, 1)


def test_what_has_no_side_is_its_own_partner() -> None:
    for label in label_table().values():
        if not label.name.lower().startswith(("left", "right", "ctx-lh", "ctx-rh")):
            assert label.partner == label.number, label.name


def test_no_two_numbers_share_a_name_or_a_covariate() -> None:
    for names in (
        Counter(label.name for label in label_table().values()),
        Counter(label.covariate for label in label_table().values()),
    ):
        assert [name for name, count in names.items() if count > 1] == []


def test_covariates_can_be_array_names() -> None:
    assert all(label.covariate.isidentifier() for label in label_table().values())


def test_tissues_are_known_ones_and_numbers_fit_the_corpus() -> None:
    assert {label.tissue for label in label_table().values()} <= set(TISSUES)
    assert min(label_table()) >= 0 and max(label_table()) < 2**15


@pytest.mark.parametrize(
    "name, inside",
    [
        ("Left-Hippocampus", True),
        ("CSF", True),
        ("Brain-Stem", True),
        ("Skull", False),
        ("Head-ExtraCerebral", False),
        ("Background", False),
        ("ctx-rh-insula", True),
    ],
)
def test_the_skull_is_the_border_of_the_intracranial(name: str, inside: bool) -> None:
    (label,) = [label for label in label_table().values() if label.name == name]
    assert label.is_intracranial is inside


def test_unknown_numbers_are_named_with_the_file() -> None:
    with pytest.raises(UserError, match=r"my\.nii.*: 9999, 12345;"):
        check_known([0, 17, 12345, 9999], "my.nii")
    check_known([0, 17, 2035], "my.nii")


def test_generation_classes_are_structures_but_for_two() -> None:
    shared = {x.structure: x.generation_class for x in label_table().values() if x.generation_class != x.structure}
    assert shared == {"amygdala": "hippocampus", "inferior_lateral_ventricle": "lateral_ventricle"}


# --- a table of one's own -------------------------------------------------------------------------------------------

HEADER = "label\tname\tstructure\ttissue\tpartner\tclass\n"
LEFT, RIGHT = "901\tLeft-Nigra\tnigra\tgm\t902\t\n", "902\tRight-Nigra\tnigra\tgm\t901\t\n"


def own(tmp_path: Path, text: str | bytes, name: str = "own.tsv") -> Path:
    """A table of the user's own."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_own_rows_extend_the_built_in_ones(tmp_path: Path) -> None:
    table = label_table(own(tmp_path, "# midbrain\n\n" + HEADER + LEFT + RIGHT))
    assert table[901] == Label(901, "Left-Nigra", "nigra", "gm", 902, "nigra")
    assert {n: x for n, x in table.items() if n not in (901, 902)} == label_table()


def test_partner_and_class_can_be_left_out(tmp_path: Path) -> None:
    table = label_table(own(tmp_path, "tissue\tname\tlabel\tstructure\ngm\tRaphe\t900\traphe\ngm\tX\t910\tamygdala\n"))
    assert table[900] == Label(900, "Raphe", "raphe", "gm", 900, "raphe")
    assert table[910].generation_class == table[18].generation_class == "hippocampus"


def test_a_table_as_spreadsheets_save_it_is_read(tmp_path: Path) -> None:
    text = "\ufeff" + (HEADER + LEFT + RIGHT).replace("\n", "\r\n") + "\t\t\t\t\t\r\n"
    assert label_table(own(tmp_path, text))[902].name == "Right-Nigra"


def test_built_in_rows_give_way_to_own_names_and_numbers(tmp_path: Path) -> None:
    rows = "17\tTumour\ttumour\tgm\t\t\n901\tLeft-Caudate\tcaudate\tgm\t902\t\n902\tRight-Caudate\tcaudate\tgm\t901\t\n"
    table = label_table(own(tmp_path, HEADER + rows))
    assert table[17].name == "Tumour" and table[901].structure == "caudate"
    assert not {53, 11, 50} & set(table)
    assert set(label_table()) - set(table) == {53, 11, 50}


def test_a_table_that_was_changed_is_read_again(tmp_path: Path) -> None:
    path = own(tmp_path, HEADER + LEFT + RIGHT)
    assert label_table(path) is label_table(path)
    own(tmp_path, HEADER + (LEFT + RIGHT).replace("Nigra", "Substantia-Nigra"))
    assert label_table(path)[901].name == "Left-Substantia-Nigra"


@pytest.mark.parametrize(
    "rows, says",
    [
        (LEFT, "line 2: label 901 (Left-Nigra) has the partner 902, which is in no table"),
        (LEFT.replace("902", "901"), "label 901 (Left-Nigra) is a left without its right"),
        (LEFT.replace("902", ""), "is a left without its right"),
        (RIGHT.replace("901", ""), "label 902 (Right-Nigra) is a right without its left"),
        ("901\tctx-lh-new\tcerebral_cortex\tgm\t\t\n", "is a left without its right"),
        (LEFT.replace("902", "53"), "has the partner 53 (Right-Hippocampus), whose own partner is 17"),
        (LEFT + RIGHT.replace("gm", "wm"), "the tissue 'gm', its partner 902 (Right-Nigra) 'wm'"),
        (LEFT + RIGHT.replace("\tnigra", "\tred"), "the structure 'nigra', its partner 902 (Right-Nigra) 'red'"),
        (LEFT + RIGHT.replace("Right", "Left-Left"), "expected one whose name begins with the right side"),
        (LEFT + LEFT.replace("gm", "wm"), "line 3 gives label 901 another content than line 2"),
        (LEFT + RIGHT + "903\tleft_nigra\tother\tgm\t\t\n", "would both be the covariate volume_left_nigra"),
        ("16\tBrain-Stem\tbrainstem\twm\n900\tPons\tbrainstem\tgm\n", "structure brainstem 'wm'"),
        ("900\tPons\tbrainstem\twm\t\tpons\n", "has the class 'pons', label 16 (Brain-Stem)"),
        ("900\tPons\tpons\twhite\n", "line 2: the tissue of label 900 (Pons) is 'white'"),
        ("900\tPons\tpons\tcsff\n", "near: csf"),
        ("900\tunknown-900\tunknown_900\t\t900\n", "is empty; complete the row with one of background, wm"),
        ("900.5\tPons\tpons\twm\n", "label is '900.5'; expected a whole number from 0 to 32767"),
        ("-1\tPons\tpons\twm\n", "label is '-1'"),
        ("9" * 5000 + "\tPons\tpons\twm\n", "expected a whole number from 0 to 32767"),
        ("40000\tPons\tpons\twm\n", "label is '40000'"),
        ("\tPons\tpons\twm\n", "label is ''"),
        ("900\tPons\tpons\twm\tnone\n", "partner is 'none'"),
        ("900\tPons (left)\tpons\twm\n", "the name of label 900 is 'Pons (left)'"),
        ("900\t\tpons\twm\n", "the name of label 900 is ''"),
        ("900\tBrücke\tpons\twm\n", "'Brücke'"),
        ("900\tPons\tBrain Stem\twm\n", "the structure of label 900 (Pons) is 'Brain Stem'"),
        ("900\tPons\tpons\twm\t\tA class\n", "the class of label 900 (Pons) is 'A class'"),
        ("900\tIntracranial\tpons\twm\n", "volume_intracranial"),
        ("0\tBrain\tbrain\twm\n", "label 0 is what lies outside"),
        ("900\tPons\tpons\twm\t900\tpons\tmore\n", "line 2 has 7 cells; expected 6"),
    ],
)
def test_a_wrong_row_is_refused_with_the_file_and_the_line(rows: str, says: str, tmp_path: Path) -> None:
    path = own(tmp_path, HEADER + rows)
    with pytest.raises(UserError, match=re.escape(says)) as error:
        label_table(path)
    assert str(path) in str(error.value) and "line " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, says",
    [
        (b"", "has no column 'label'"),
        (b"label,name,structure,tissue\n", "has no column 'label'; expected a first line"),
        (b"label\tname\ttissue\n", "has no column 'structure'"),
        (b"label\tname\tstructure\ttissue\tpartnr\n", "near: partner"),
        (b"label\tname\tstructure\ttissue\tname\n", "'name' twice"),
        ("label\tname\tstructure\ttissue\n900\tBrücke\tpons\twm\n".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_table_is_refused(text: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as error:
        label_table(own(tmp_path, text))
    assert "own.tsv" in str(error.value)


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.tsv", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            label_table(path)


def test_the_same_row_twice_is_no_contradiction(tmp_path: Path) -> None:
    assert label_table(own(tmp_path, HEADER + LEFT + RIGHT + LEFT))[901].partner == 902


WORDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> list[Label]:
    """Labels with and without sides under numbers that FreeSurfer does not use, each structure its own."""
    numbers = iter(draw(st.lists(st.integers(3000, 32767), min_size=2, max_size=20, unique=True)))
    labels: list[Label] = []
    for number in numbers:
        structure = f"own_{draw(WORDS)}_{number}"
        tissue, kind = draw(st.sampled_from(TISSUES)), draw(st.sampled_from([structure, draw(WORDS)]))
        other = next(numbers, None) if draw(st.booleans()) else None
        if other is None:
            labels.append(Label(number, f"Mid-{structure}", structure, tissue, number, kind))
        else:
            labels.append(Label(number, f"Left-{structure}", structure, tissue, other, kind))
            labels.append(Label(other, f"Right-{structure}", structure, tissue, number, kind))
    return labels


@given(labels=tables())
def test_a_table_that_is_written_is_read_as_it_was(
    labels: list[Label], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = own(tmp_path_factory.mktemp("tables"), as_tsv(labels))
    assert label_table(path) == {**label_table(), **{label.number: label for label in labels}}


CELLS = st.one_of(
    st.sampled_from(["17", "53", "901", "902", "Left-X", "Right-X", "x", "gm", "wm", "hippocampus", "", "#", "CSF"]),
    st.text(max_size=5),
)


@given(lines=st.lists(st.lists(CELLS, max_size=7).map("\t".join), max_size=5))
def test_whatever_stands_in_a_table_is_read_or_refused(
    lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = own(tmp_path_factory.mktemp("tables"), (HEADER + "\n".join(lines)).encode("utf-8", "surrogatepass"))
    try:
        table = label_table(path)
    except UserError:
        return
    for number, label in table.items():
        partner = table[label.partner]
        assert (partner.partner, partner.structure, partner.tissue) == (number, label.structure, label.tissue)
        assert label.side != partner.side or not label.side
    assert len({label.covariate for label in table.values()}) == len(table)


# --- label maps under a table of one's own ---------------------------------------------------------------------------


def relabelled(numbers: dict[int, int]) -> np.ndarray:
    """The toy head with other numbers."""
    array = spheres_in_a_box()
    return np.array([numbers.get(n, n) for n in range(array.max() + 1)], np.int16)[array]


def test_own_numbers_of_known_structures_are_measured_with_them(
    tmp_path: Path, toy_label_map: Callable[..., Path]
) -> None:
    rows = "901\tLeft-Hippocampus\thippocampus\tgm\t902\n902\tRight-Hippocampus\thippocampus\tgm\t901\n"
    renumbered = toy_label_map(relabelled({17: 901, 53: 902}), folder="own") / "toy_dseg.nii.gz"
    plain = load_anatomy(toy_label_map() / "toy_dseg.nii.gz")
    table = own(tmp_path, HEADER + rows)
    anatomy = load_anatomy(renumbered, table)
    assert anatomy.volumes == plain.volumes and anatomy.volumes["hippocampus"] > 0
    assert {x.covariate for x in anatomy.labels} == {x.covariate for x in plain.labels}
    own(tmp_path, HEADER + rows.replace("hippocampus\tgm", "other\tgm"))
    assert "hippocampus" not in load_anatomy(renumbered, table).volumes, "a changed table was not read again"


def test_unknown_labels_are_named_with_the_table_and_the_way_out(
    tmp_path: Path, toy_label_map: Callable[..., Path]
) -> None:
    path = toy_label_map(relabelled({17: 901, 53: 902})) / "toy_dseg.nii.gz"
    with pytest.raises(
        UserError, match=r"toy_dseg.*label table \(built in\).*: 901, 902; brainloom synth labels FOLDER"
    ):
        load_anatomy(path)
    table = own(tmp_path, HEADER + "901\tNew\tnew\tgm\n")
    with pytest.raises(UserError, match=r"own\.tsv.*: 902; .*--out labels\.tsv.*--generator\.labels labels\.tsv"):
        load_anatomy(path, table)


@pytest.mark.parametrize(
    "numbers, says",
    [
        ({53: 41}, "hippocampus on one side only (17 Left-Hippocampus without 53)"),
        ({42: 3}, "cerebral_cortex on one side only (3 Left-Cerebral-Cortex without 42)"),
        ({2: 41}, "cerebral_white_matter on one side only (41 Right-Cerebral-White-Matter without 2)"),
        ({3: 1035, 42: 1006}, "cerebral_cortex on one side only (1006 ctx-lh-entorhinal without 2006"),
    ],
)
def test_a_structure_of_one_side_only_is_refused(
    numbers: dict[int, int], says: str, toy_label_map: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        load_anatomy(toy_label_map(relabelled(numbers)) / "toy_dseg.nii.gz")


@pytest.mark.parametrize(
    "numbers",
    [
        {17: 25, 53: 41},  # a lesion
        {4: 2},  # a ventricle that is closed
        {42: 2035},  # parcels on one side, the whole cortex on the other
        {17: 2, 53: 41},  # absent altogether
    ],
    ids=["lesion", "ventricle", "parcels on one side", "absent"],
)
def test_what_may_lie_on_one_side_is_read(numbers: dict[int, int], toy_label_map: Callable[..., Path]) -> None:
    assert load_anatomy(toy_label_map(relabelled(numbers)) / "toy_dseg.nii.gz").intracranial_ml > 500


def test_more_labels_than_positions_are_refused(tmp_path: Path, toy_label_map: Callable[..., Path]) -> None:
    array = spheres_in_a_box()
    array[0, :8, :] = 3000 + np.arange(320).reshape(8, 40)
    rows = "".join(f"{3000 + n}\tOwn-{n}\town\tgm\n" for n in range(320))
    path = toy_label_map(array) / "toy_dseg.nii.gz"
    with pytest.raises(UserError, match="holds 331 labels; expected 256 or fewer"):
        load_anatomy(path, own(tmp_path, HEADER + rows))


def test_every_number_of_the_real_label_maps_is_built_in(real_anatomies: Path) -> None:
    first, *_ = sorted(real_anatomies.glob("*.nii.gz"))
    found = census(first)
    assert len(found) > 30 and set(found) <= set(label_table())
    assert 2 < sum(found[17].millilitres) < 6


# --- brainloom synth labels -------------------------------------------------------------------------------------------


def test_the_built_in_table_can_be_written_and_read(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "labels.tsv"
    answer = run("synth", "labels", "--out", out)
    assert answer.code == 0 and f"{len(label_table())} labels" in answer.out
    assert label_table(out) == label_table()


def test_the_labels_of_a_folder_are_written_with_rows_to_complete(
    tmp_path: Path, run: Run, toy_label_map: Callable[..., Path]
) -> None:
    toy_label_map(name="a_dseg.nii.gz")
    folder = toy_label_map(relabelled({17: 901, 53: 902}), name="b_dseg.nii.gz")
    out = tmp_path / "labels.tsv"
    answer = run("synth", "labels", folder, "--out", out)
    assert answer.code == 0, answer.err
    millilitres = 0.064 * (spheres_in_a_box() == 17).sum()
    assert f"17 Left-Hippocampus (hippocampus, gm): {millilitres:.4g} mL, in 1 of 2 label maps" in answer.out
    assert f"901 unknown: {millilitres:.4g} mL, in 1 of 2 label maps" in answer.out
    assert "2 unknown" in answer.out
    rows = [line.split("\t") for line in out.read_text().splitlines() if not line.startswith("#")][1:]
    assert [int(row[0]) for row in rows] == [2, 3, 4, 17, 24, 41, 42, 43, 53, 165, 901, 902]
    assert rows[-1] == ["902", "unknown-902", "unknown_902", "", "902", ""]
    with pytest.raises(UserError, match="complete the row"):
        label_table(out)
    text = out.read_text().replace("unknown-901", "Left-Nigra").replace("unknown-902", "Right-Nigra")
    text = text.replace("unknown_901\t\t901", "nigra\tgm\t902").replace("unknown_902\t\t902", "nigra\tgm\t901")
    out.write_text(text)
    assert load_anatomy(folder / "b_dseg.nii.gz", out).volumes["nigra"] > 0


def test_own_rows_are_kept_when_a_table_is_written_again(
    tmp_path: Path, run: Run, toy_label_map: Callable[..., Path]
) -> None:
    table, out = own(tmp_path, HEADER + LEFT + RIGHT), tmp_path / "labels.tsv"
    folder = toy_label_map(relabelled({17: 901, 53: 950, 4: 2}))
    assert run("synth", "labels", folder, "--labels", table, "--out", out).code == 0
    for number, row in ((901, "Left-Nigra"), (902, "Right-Nigra"), (950, "unknown-950"), (4, "Left-Lateral-Ventricle")):
        assert f"\n{number}\t{row}\t" in out.read_text()


def test_a_table_is_not_written_over_another(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "labels.tsv"
    assert run("synth", "labels", "--out", out).code == 0
    assert run("synth", "labels", "--out", out).code == 0, "the same table again is fine"
    out.write_text("mine")
    answer = run("synth", "labels", "--out", out)
    assert answer.code == 2 and "exists and holds something else" in answer.err and out.read_text() == "mine"
