from __future__ import annotations

import pytest

from synth.keys import rng_for
from synth.labelmap import LabelMap
from synth.regions import BRAIN, VENTRICULAR, total

WHITE = {"volume_left_cerebral_white_matter": 200.0, "volume_right_cerebral_white_matter": 210.0}
LATERAL = {"volume_left_lateral_ventricle": 10.0, "volume_right_lateral_ventricle": 12.0}


def test_ventricles_and_brain_share_no_structure() -> None:
    assert not set(VENTRICULAR) & set(BRAIN)


def test_ventricles_are_lateral_inferior_lateral_third_and_fourth() -> None:
    covariates = {**LATERAL, "volume_left_inf_lat_vent": 1.0, "volume_3rd_ventricle": 2.0, "volume_4th_ventricle": 3.0}
    assert total({**covariates, "volume_csf": 500.0, "volume_intracranial": 1500.0}, VENTRICULAR) == 28.0


def test_brain_and_ventricles_and_csf_and_chiasm_are_the_intracranial_volume() -> None:
    generator = LabelMap(shape=(24, 28, 24), spacing=8.0)
    covariates = dict(generator.render(generator.draw(rng_for(0, 0))).covariates)
    brain, ventricles = total(covariates, BRAIN), total(covariates, VENTRICULAR)
    assert brain is not None and ventricles is not None
    rest = sum(float(covariates.get(name, 0)) for name in ("volume_csf", "volume_optic_chiasm"))
    assert brain + ventricles + rest == pytest.approx(float(covariates["volume_intracranial"]))


def test_a_structure_lost_on_a_coarse_grid_counts_as_nothing() -> None:
    assert total(LATERAL, VENTRICULAR) == 22.0


@pytest.mark.parametrize(
    "covariates",
    [{}, {"volume_3rd_ventricle": 2.0}, {**LATERAL, "volume_3rd_ventricle": "large"}, {"age": 70.0}],
)
def test_a_table_of_a_few_regions_has_no_total(covariates: dict[str, float | str]) -> None:
    assert total(covariates, VENTRICULAR) is None


def test_brain_needs_white_matter_of_both_sides() -> None:
    assert total(WHITE, BRAIN) == 410.0
    assert total({"volume_left_cerebral_white_matter": 200.0}, BRAIN) is None
