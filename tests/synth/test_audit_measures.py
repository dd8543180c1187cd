"""The audit's single measures: each says what it should of sets made to order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from synth.anatomy.labels import label_table
from synth.audit import calibration, distances, diversity, features, listening, mixture, segmenter
from synth.audit.grid import Volumes, coarsened, some, standardised, whole_factor
from synth.audit.groups import GROUPS, NAMES, covariates_of, group_of, labels_of, requested
from synth.audit.image_quality import Quality
from synth.audit.limits import not_judged
from synth.audit.measuring import ByMixture, Measured, measure
from synth.corpus import Corpus
from synth.engine import Job, generate
from synth.generator import GeneratorSpec
from synth.quality import METRICS

HEADS = "tests.synth.heads.Heads"


def silent(done: int, total: int) -> None:
    """No progress bar."""


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Volumes]:
    """Toy heads: how many, and the generator's options; each corpus made once."""
    folder = tmp_path_factory.mktemp("heads")

    def made(count: int, seed: int = 0, **options: object) -> Volumes:
        path = folder / f"{count}-{seed}-{'-'.join(map(str, options.items()))}.zarr"
        if not path.exists():
            generate(Job(GeneratorSpec(HEADS, dict(options)), count, seed, path))
        return Volumes(Corpus(path), "reference")

    return made


def normal(seed: int, count: int, mean: float = 0.0, sd: float = 1.0, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, sd, (count, width))


def test_frechet_distance_is_that_of_the_normal_distributions() -> None:
    near = distances.frechet(normal(0, 4000), normal(1, 4000))
    moved = distances.frechet(normal(0, 4000), normal(1, 4000, mean=0.5))
    wider = distances.frechet(normal(0, 4000), normal(1, 4000, sd=2.0))
    assert near < 0.02
    assert moved == pytest.approx(6 * 0.25, rel=0.1)
    assert wider == pytest.approx(6 * (2 - 1) ** 2, rel=0.1)


def test_frechet_distance_is_finite_with_fewer_volumes_than_features() -> None:
    far, near = (distances.frechet(normal(0, 20, width=60), normal(1, 20, mean=m, width=60)) for m in (1.0, 0.0))
    assert 0 <= near < far < 1000


def test_kid_and_mmd_are_unbiased_and_see_a_difference() -> None:
    width = distances.median_width(normal(0, 100))
    for measure_of in (distances.kid, lambda a, b, seed: distances.mmd_gaussian(a, b, width, seed)):
        same = [measure_of(normal(2 * i, 40), normal(2 * i + 1, 50), i) for i in range(20)]
        other = measure_of(normal(0, 40), normal(1, 50, mean=1.0), 0)
        assert abs(np.mean([one.value for one in same])) < 3 * np.std([one.value for one in same]) / np.sqrt(20)
        assert sum(one.low < 0 < one.high for one in same) >= 15
        assert other.low > max(one.value for one in same)


def test_precision_falls_with_what_is_false_and_recall_with_what_is_missing() -> None:
    real = normal(0, 300)
    alike, far, narrow = normal(1, 300), normal(2, 300, mean=6.0), normal(3, 300, sd=0.2)
    assert min(distances.manifold(alike, real)[name] for name in ("precision", "recall", "coverage")) > 0.7
    assert distances.manifold(far, real)["precision"] < 0.05
    collapsed = distances.manifold(narrow, real)
    assert collapsed["precision"] > 0.9
    assert collapsed["recall"] < 0.2 < distances.manifold(alike, real)["recall"]


def test_features_are_the_same_numbers_every_time_and_tell_mirror_images_apart(heads: Callable[..., Volumes]) -> None:
    found = features.describe_all(heads(12), silent)
    assert found.shape == (12, 2, features.WIDTH)
    np.testing.assert_array_equal(found, features.describe_all(heads(12), silent))
    assert np.abs(found[:, 0] - found[:, 1]).max() > 1e-3


def test_features_do_not_see_gain_and_offset(heads: Callable[..., Volumes]) -> None:
    image, blocks = heads(12).image(0), features.build()
    changed = features.describe(blocks, standardised(3 * image + 20))
    np.testing.assert_allclose(changed, features.describe(blocks, image), atol=1e-4)


def test_a_corpus_of_one_head_is_less_diverse_than_one_of_many(heads: Callable[..., Volumes]) -> None:
    many = diversity.ms_ssim(heads(12), 20, 0, silent)
    one = diversity.ms_ssim(heads(12, alike=True), 20, 0, silent)
    assert one.min() > 0.9999
    assert many.max() < 0.95


def test_pairs_are_of_different_volumes_and_every_one_at_most_once() -> None:
    drawn = diversity.pairs(5, 100, 0)
    assert len({tuple(pair) for pair in drawn.tolist()}) == len(drawn) == 10
    assert (drawn[:, 0] < drawn[:, 1]).all()


@pytest.mark.parametrize("shape, used", [((44, 52, 44), 3), ((24, 28, 24), 2), ((16, 16, 16), 2), ((64, 64, 64), 4)])
def test_as_many_scales_as_the_grid_allows(shape: tuple[int, int, int], used: int) -> None:
    assert diversity.scales(shape) == used


def test_a_fine_grid_is_averaged_to_64_voxels_or_fewer() -> None:
    assert [whole_factor(shape) for shape in ((64, 64, 64), (65, 20, 20), (160, 192, 160))] == [1, 2, 3]
    blocks = coarsened(np.arange(5 * 4 * 4, dtype=np.float32).reshape(5, 4, 4), 2)
    assert blocks.shape == (2, 2, 2)
    assert blocks[0, 0, 0] == pytest.approx(np.mean([0, 1, 4, 5, 16, 17, 20, 21]))


def test_some_of_many_are_evenly_apart() -> None:
    assert some(10, 4) == [0, 3, 6, 9]
    assert some(3, 10) == [0, 1, 2]


def test_groups_leave_no_structure_out_and_agree_with_the_regions() -> None:
    names = covariates_of(label_table())
    parts = [
        name for group in ("cortex", "deep_grey", "white_matter", "cerebellum", "brainstem") for name in names[group]
    ]
    assert len(parts) == len(set(parts))
    assert set(names["brain"]) <= set(parts)
    assert {group_of(label) for label in label_table().values()} == set(GROUPS)


def test_requested_volumes_are_taken_outright_or_summed() -> None:
    names = covariates_of(label_table())
    sides = {"volume_left_lateral_ventricle": 5.0, "volume_right_lateral_ventricle": 6.0}
    assert requested({"ventricular_volume": 20.0, **sides}, "ventricles", names["ventricles"]) == 20.0
    assert requested(sides, "ventricles", names["ventricles"]) == 11.0
    assert requested({"age": 60.0}, "ventricles", names["ventricles"]) is None
    assert requested({"ventricular_volume": "large"}, "ventricles", names["ventricles"]) is None


def test_labels_that_a_table_names_otherwise_are_not_trusted(heads: Callable[..., Volumes]) -> None:
    corpus = heads(12).corpus
    assert labels_of(corpus) is not None
    corpus.header.labels["3"] = "Shell-3"
    assert labels_of(corpus) is None
    assert labels_of(heads(12, label_maps=False).corpus) is None


@pytest.fixture(scope="module")
def trained(heads: Callable[..., Volumes]) -> segmenter.Segmenter:
    return train(heads(40))


def train(volumes: Volumes) -> segmenter.Segmenter:
    table = labels_of(volumes.corpus)
    assert table is not None
    from synth.audit.groups import group_numbers

    return segmenter.train(volumes, segmenter.split(len(volumes))[0], group_numbers(table), 60, 0, silent)


def test_the_segmenter_measures_heads_that_it_never_saw(
    heads: Callable[..., Volumes], trained: segmenter.Segmenter
) -> None:
    from synth.audit.groups import group_numbers

    unseen = heads(24, seed=9)
    table = labels_of(unseen.corpus)
    assert table is not None
    raw = calibration.measured(trained, unseen, list(range(24)), group_numbers(table), silent)
    errors = raw.crossed()
    assert errors["ventricles"].r > 0.9
    assert errors["ventricles"].dice > 0.6
    spread = raw.true["ventricles"].std()
    assert abs(errors["ventricles"].bias) < 0.3 * spread
    assert errors["ventricles"].rmse < 0.6 * spread


def test_training_twice_gives_the_same_bits(heads: Callable[..., Volumes], trained: segmenter.Segmenter) -> None:
    image = heads(40).image(0)
    np.testing.assert_array_equal(train(heads(40)).probabilities(image), trained.probabilities(image))


def test_probabilities_of_a_voxel_sum_to_one(heads: Callable[..., Volumes], trained: segmenter.Segmenter) -> None:
    probability = trained.probabilities(heads(40).image(1))
    assert probability.shape == (len(GROUPS), *heads(40).shape)
    np.testing.assert_allclose(probability.sum(axis=0), 1, atol=1e-5)


def test_calibration_inverts_its_line_and_refuses_a_flat_one() -> None:
    true = np.linspace(10, 50, 20)
    line = calibration.Line.through(true, 0.5 * true + 7)
    np.testing.assert_allclose(line.inverse(0.5 * true + 7), true)
    assert calibration.Line.through(true, np.full(20, 7.0)).slope == 1.0
    assert calibration.Line.through(np.full(20, 3.0), true).slope == 1.0


def test_dark_voxels_deep_inside_follow_the_ventricles(heads: Callable[..., Volumes]) -> None:
    volumes = heads(40)
    found = measure(volumes, ByMixture(volumes.spacing), silent)
    true = [requested(row, "ventricles", covariates_of(label_table())["ventricles"]) for row in volumes.covariates]
    assert np.corrcoef(np.array(true, float), found.mm3["ventricles"])[0, 1] > 0.8


def test_a_mixture_of_a_flat_volume_is_no_error() -> None:
    tissue = mixture.tissue_of(np.zeros((16, 16, 16), np.float32), (7.0, 7.0, 7.0))
    assert np.isfinite(list(mixture.regions_of(tissue, 343.0).values())).all()


def true_volumes(volumes: Volumes) -> Measured:
    """A measurement without error: the label maps' own volumes."""
    from synth.audit.groups import group_numbers

    table = labels_of(volumes.corpus)
    assert table is not None
    numbers = group_numbers(table)
    rows = [segmenter.regions_of(volumes.shares(i, numbers), volumes.voxel_mm3) for i in range(len(volumes))]
    return Measured(
        list(range(len(volumes))), {n: np.array([r[n] for r in rows]) for n in NAMES}, ("ventricles", "brain")
    )


def test_a_generator_that_listens_and_one_that_is_deaf_are_told_apart(heads: Callable[..., Volumes]) -> None:
    reference = heads(80)
    for deaf in (False, True):
        made = heads(80, seed=4, deaf=deaf)
        found = listening.listening(made, true_volumes(made), reference, true_volumes(reference), 0)
        slope = found["mm3_per_year"]["ventricles"]
        sex = found["words"]["sex"]["words"]["M"]["brain"]
        assert slope["reference"]["low"] > 0
        assert sex["reference"]["low"] > 0.5
        if deaf:
            assert slope["synthetic"]["low"] < 0 < slope["synthetic"]["high"]
            assert abs(sex["synthetic"]["value"]) < 0.5
        else:
            assert slope["synthetic"]["value"] == pytest.approx(slope["reference"]["value"], rel=0.25)
            assert found["volumes"]["synthetic"]["ventricles"]["r"]["value"] == pytest.approx(1.0)
            assert found["volumes"]["synthetic"]["ventricles"]["rmse_mm3"] == pytest.approx(0.0, abs=1e-6)


def test_a_volume_that_is_asked_for_in_part_only_is_not_compared(heads: Callable[..., Volumes]) -> None:
    made = heads(12, seed=5)
    for row in made.covariates:
        del row["volume_left_lateral_ventricle"]
    measured = true_volumes(made)
    expected = listening.always_there(heads(40))
    assert "ventricles" not in listening.asked_of(made, measured, expected)
    assert "brain" in listening.asked_of(made, measured, expected)


def test_covariates_that_nothing_measures_are_named(heads: Callable[..., Volumes]) -> None:
    made = heads(12, seed=6)
    for row in made.covariates:
        row["shoe_size"] = 42.0
    assert listening.not_measured(made) == ["shoe_size"]


def test_differences_in_standard_deviations() -> None:
    a, b = np.random.default_rng(0).normal(1, 1, 4000), np.random.default_rng(1).normal(0, 1, 4000)
    assert listening.cohen_d(a, b) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("nothing", [np.array([]), np.array([np.nan, np.nan])])
def test_image_quality_that_was_measured_on_no_volume_is_named(
    heads: Callable[..., Volumes], nothing: np.ndarray[Any, Any]
) -> None:
    made, measured = heads(1), Measured([], {}, ())
    full = dict.fromkeys(METRICS, np.ones(3))
    silent = not_judged(made, made, None, measured, Quality(dict.fromkeys(METRICS, nothing), full))
    assert "Image quality was not measured on the synthetic volumes" in " ".join(silent)
    assert "Image quality" not in " ".join(not_judged(made, made, None, measured, Quality(full, full)))
