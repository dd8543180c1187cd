"""Sample refuses what is no volume, and says why."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.sample import Sample, centred_affine, spacing_of

IMAGE = np.zeros((1, 4, 5, 6), np.float32)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"image": np.zeros((4, 5, 6))}, "(4, 5, 6); expected four axes"),
        ({"image": np.zeros((1, 1, 4, 5, 6))}, "four axes"),
        ({"image": np.full((1, 2, 2, 2), np.nan)}, "NaN"),
        ({"image": np.full((1, 2, 2, 2), np.inf)}, "infinity"),
        ({"image": IMAGE, "label": np.zeros((4, 5, 5), int)}, "(4, 5, 5)"),
        ({"image": IMAGE, "label": np.zeros((4, 5, 6))}, "expected integers"),
        ({"image": IMAGE, "affine": np.eye(3)}, "4×4"),
        ({"image": IMAGE, "affine": np.zeros((4, 4))}, "invertible"),
        ({"image": IMAGE, "affine": np.full((4, 4), np.nan)}, "affine"),
        ({"image": IMAGE, "covariates": {"age": None}}, "'age' is None"),
        ({"image": IMAGE, "covariates": {"age": [1, 2]}}, "'age'"),
        ({"image": IMAGE, "covariates": {"age": float("nan")}}, "'age'"),
        ({"image": IMAGE, "covariates": {"age": float("inf")}}, "'age'"),
    ],
)
def test_what_is_no_volume_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Sample(**arguments)


def test_arrays_are_brought_to_the_types_that_are_promised() -> None:
    sample = Sample(
        np.zeros((2, 3, 4, 5), np.int64), np.ones((3, 4, 5), np.uint8), {"n": np.int64(3), "w": "x"}, [*np.eye(4)]
    )
    assert sample.image.dtype == np.float32 and sample.affine.dtype == np.float64
    assert sample.label is not None and sample.label.dtype == np.uint8
    assert sample.covariates == {"n": 3.0, "w": "x"} and type(sample.covariates["n"]) is float


def test_a_sample_cannot_be_changed_by_changing_what_it_was_made_of() -> None:
    covariates = {"age": 3.0}
    sample = Sample(IMAGE, covariates=covariates)
    covariates["age"] = 4.0
    assert sample.covariates["age"] == 3.0


@given(st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.floats(0.2, 20)] * 3))
def test_the_middle_of_a_centred_grid_is_at_zero(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    affine = centred_affine(shape, spacing)
    corners = affine @ np.array([[0, n - 1] for n in shape] + [[1, 1]])
    assert np.allclose(corners[:3].sum(axis=1), 0, atol=1e-9)
    assert np.allclose(spacing_of(affine), spacing)
    assert np.allclose(Sample(IMAGE, affine=affine).spacing, spacing)
