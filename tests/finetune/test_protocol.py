"""Protocol: nobody on both sides, controls in the table, a planted signal found, a shuffled one not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.cohort import load_cohort
from finetune.heads import linear_predict
from finetune.metrics import roc_auc
from finetune.protocol import Arm, Protocol, controls, layouts, run_experiment
from finetune.split_files import Rows, read_splits
from finetune.splits import Split, folds, pick_labels, site_split
from finetune.tasks import TASKS, participants_of
from pretrain.train import TrainOptions, pretrain
from synth.corpus import Corpus
from synth.errors import UserError
from tests.conftest import Run
from tests.finetune.studies import imported, make_study, put_scan, scan_path


@given(st.lists(st.booleans(), min_size=20, max_size=60), st.integers(2, 5), st.integers(0, 9))
def test_every_person_is_tested_once_and_never_while_trained_on(classes: list[bool], count: int, seed: int) -> None:
    target = np.array(classes, float)
    parts = folds(target, True, count, seed)
    assert sorted(np.concatenate([part.test for part in parts])) == list(range(len(target)))
    for part in parts:
        assert not np.intersect1d(part.train, part.test).size


def test_labelled_people_keep_the_classes_in_proportion_and_differ_by_seed() -> None:
    target = np.array([0.0] * 60 + [1.0] * 30)
    pool = np.arange(90)
    picked = [pick_labels(pool, target, True, 30, seed) for seed in (0, 1)]
    assert [target[who].sum() for who in picked] == [10, 10]
    assert not np.array_equal(*picked)
    assert np.array_equal(picked[0], pick_labels(pool, target, True, 30, 0))


def test_a_split_with_somebody_on_both_sides_cannot_be_made() -> None:
    with pytest.raises(UserError, match="train and test"):
        Split(np.array([1, 2]), np.array([2, 3]))


def test_a_split_file_with_a_participant_in_train_and_test_is_refused(people: Corpus, tmp_path: Path, run: Run) -> None:
    cohort = load_cohort(people.path)
    names = list(cohort.table.index)
    rows = pd.DataFrame({"participant_id": [*names, names[0]], "split": ["train"] * 40 + ["test"] * (len(names) - 39)})
    rows.to_csv(tmp_path / "split.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match="in train and test"):
        read_splits(tmp_path / "split.tsv", Rows(cohort, TASKS["age"], names, np.zeros(len(names))), 1)
    answer = run(
        "finetune",
        "run",
        "--task",
        "ad",
        "--cohort",
        people.path,
        "--out",
        tmp_path / "r",
        "--split",
        tmp_path / "split.tsv",
    )
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert not (tmp_path / "r").exists()


def test_a_held_out_site_is_only_tested_on(people: Corpus) -> None:
    cohort = load_cohort(people.path)
    names, target = participants_of(TASKS["ad"], cohort)
    plan = layouts(cohort, TASKS["ad"], names, target, Protocol(seeds=2, test_site="south", labels=12))
    sites = cohort.table.loc[names, "site"].to_numpy()
    for layout in plan:
        for name, split in layout.splits:
            assert set(sites[split.train]) == {"north"}
            assert set(sites[split.test]) == ({"south"} if name == "held-out site" else {"north"})
            assert len(split.train) == 12


def test_an_unknown_site_lists_those_there_are(people: Corpus) -> None:
    cohort = load_cohort(people.path)
    with pytest.raises(UserError, match="north, south"):
        site_split(cohort, list(cohort.table.index), "east")


def test_a_planted_signal_is_found_and_shuffled_labels_are_not() -> None:
    rng = np.random.Generator(np.random.Philox(3))
    target = (np.arange(200) % 2).astype(float)
    features = rng.standard_normal((200, 30))
    features[:, 4] += 2.0 * target
    train, test = np.arange(80), np.arange(80, 200)
    found = linear_predict(features[train], target[train], features[test], True, 0)
    assert roc_auc(target[test], found) > 0.85
    shuffled = linear_predict(features[train], rng.permutation(target[train]), features[test], True, 0)
    assert 0.3 < roc_auc(target[test], shuffled) < 0.7


def test_ridge_recovers_an_age_written_into_the_features() -> None:
    rng = np.random.Generator(np.random.Philox(4))
    age = rng.uniform(20, 80, 120)
    features = np.c_[age + rng.normal(0, 2, 120), rng.standard_normal((120, 10))]
    predicted = linear_predict(features[:80], age[:80], features[80:], False, 0)
    assert np.abs(predicted - age[80:]).mean() < 3


def test_an_experiment_leaves_results_with_controls_intervals_and_parents(
    people: Corpus, corpus: Corpus, tmp_path: Path
) -> None:
    pretrain(corpus.path, tmp_path / "w", TrainOptions(steps=4, batch_size=8))
    cohort, task = load_cohort(people.path), TASKS["ad"]
    arms = [Arm("sfcn_s, untrained, frozen"), Arm("pre-trained", "frozen", tmp_path / "w"), *controls(cohort, task)]
    protocol = Protocol(seeds=2, folds=3, grid=((32, 40, 32), (5.0, 5.0, 5.0)))
    results = run_experiment(cohort, task, arms, protocol, tmp_path / "r", lambda *_: None)
    rows = {arm["name"]: arm for arm in results["arms"]}
    assert "regional volumes + logistic" in rows and "age + sex + logistic" in rows
    for arm in rows.values():
        auc = arm["metrics"]["cross-validation"]["roc_auc"]
        assert auc["low"] <= auc["value"] <= auc["high"]
    assert rows["pre-trained"]["weights"]["corpus"]["identity"] == corpus.identity()
    assert results["cohort"]["simulated"] is True
    table = pd.read_csv(tmp_path / "r" / "predictions.tsv", sep="\t")
    assert table.groupby(["arm", "seed"]).size().unique().tolist() == [results["cohort"]["people"]]
    assert json.loads((tmp_path / "r" / "results.json").read_text())["arms"] == results["arms"]


def test_finished_arms_are_kept_and_another_experiment_is_refused(
    people: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, task = load_cohort(people.path), TASKS["age"]
    first = run_experiment(cohort, task, controls(cohort, task), Protocol(folds=3), tmp_path / "r", lambda *_: None)
    monkeypatch.setattr("finetune.protocol.Bench.predict", lambda *_: pytest.fail("predicted again"))
    again = run_experiment(cohort, task, controls(cohort, task), Protocol(folds=3), tmp_path / "r", lambda *_: None)
    assert again["arms"] == first["arms"]
    with pytest.raises(UserError, match="another experiment"):
        run_experiment(cohort, task, controls(cohort, task), Protocol(folds=4), tmp_path / "r", lambda *_: None)


def test_a_full_fine_tune_runs_on_cohort_scans_and_says_who_they_were(people: Corpus, tmp_path: Path, run: Run) -> None:
    answer = run(
        "finetune",
        "run",
        "--task",
        "pd",
        "--cohort",
        people.path,
        "--out",
        tmp_path / "r",
        "--epochs",
        1,
        "--folds",
        2,
        "--shape",
        "32,40,32",
        "--spacing",
        5,
    )
    assert answer.code == 0, answer.err
    assert "SIMULATED" in answer.out and "sfcn_s, scratch" in answer.out


@pytest.mark.parametrize(
    "words, said",
    [
        (["--cohort", "nowhere"], "there is no cohort"),
        (["--task", "adhd"], "expected one of ad, pd, age"),
        (["--weights", "nowhere"], "holds no weights"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--folds", "1"], "--folds is 1"),
        (["--test-site", "east"], "north, south"),
        (["--backbone", "vit_xs", "--shape", "30,30,30"], "cannot take volumes"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    people: Corpus, tmp_path: Path, run: Run, words: list[str], said: str
) -> None:
    given_ = {"--task": "ad", "--cohort": people.path, "--out": tmp_path / "r"}
    given_ |= dict(zip(words[::2], words[1::2], strict=True))
    answer = run("finetune", "run", *(word for pair in given_.items() for word in pair))
    assert answer.code == 2
    assert answer.err.count("\n") == 1 and said in answer.err
    assert not (tmp_path / "r").exists()


def test_other_scans_under_the_same_names_are_another_experiment(tmp_path: Path) -> None:
    names = [f"sub-{number:02d}" for number in range(10)]
    folder, arms = make_study(tmp_path / "s", names), [Arm("mean", control="mean")]

    def run_again() -> None:
        run_experiment(load_cohort(folder), TASKS["age"], arms, Protocol(folds=2), tmp_path / "r", lambda *_: None)

    run_again()
    scan_path(folder, "sub-03").touch()
    run_again()  # only the time stamp is another
    put_scan(folder, "sub-03", 77)
    with pytest.raises(UserError, match="another experiment"):
        run_again()


def test_the_same_samples_with_other_voxels_are_another_experiment(tmp_path: Path) -> None:
    names = [f"sub-{number:02d}" for number in range(10)]
    corpora = [imported(make_study(tmp_path / f"s{n}", names, first=n), tmp_path / f"{n}" / "c.zarr") for n in (0, 50)]
    cohorts = [load_cohort(corpus.path) for corpus in corpora]
    assert cohorts[0].identity(names) != cohorts[1].identity(names)
    assert cohorts[0].identity(names) == load_cohort(corpora[0].path).identity(names)
