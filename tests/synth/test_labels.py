"""The label table: FreeSurfer's numbers, mutual partners, one name a number."""

from __future__ import annotations

from collections import Counter

import pytest

from synth.anatomy.labels import TISSUES, check_known, label_table
from synth.errors import UserError

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
