"""Tasks: classes are settings, a task of one's own is a few lines of YAML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finetune.cohort import Cohort, load_cohort
from finetune.columns import column_map
from finetune.tasks import TASKS, find_task, participants_of
from synth.errors import UserError
from tests.conftest import Run
from tests.finetune.studies import imported, make_study


def cohort() -> Cohort:
    words = ["CN"] * 10 + ["AD"] * 6 + ["MCI"] * 5
    table = pd.DataFrame(
        {"diagnosis": words, "age": np.arange(21) + 60.0, "amyloid": [0, 1, 1] * 7, "moca": np.arange(21) + 5.0},
        index=[f"sub-{k:02d}" for k in range(21)],
    )
    return Cohort("toy", table, dict.fromkeys(table.index, 0))


def write(tmp_path: Path, text: str) -> str:
    (tmp_path / "my.yaml").write_text(text)
    return str(tmp_path / "my.yaml")


def test_people_with_mci_take_no_part_in_ad_unless_a_class_names_them() -> None:
    names, target = participants_of(TASKS["ad"], cohort())
    assert (len(names), target.sum()) == (16, 6)
    names, target = participants_of(TASKS["ad"].with_classes(("AD", "MCI"), ()), cohort())
    assert (len(names), target.sum()) == (21, 11)
    names, target = participants_of(TASKS["ad"].with_classes(("AD",), ("MCI",)), cohort())
    assert (len(names), target.sum()) == (11, 6)


def test_a_task_of_ones_own_takes_any_column_its_values_and_filters(tmp_path: Path) -> None:
    task = find_task(write(tmp_path, "{name: amy, column: amyloid, kind: classification, positive: 1, negative: 0}"))
    names, target = participants_of(task, cohort())
    assert (len(names), target.sum()) == (21, 14)
    task = find_task(
        write(tmp_path, "{name: m, column: moca, kind: regression, unit: points, filters: {diagnosis: CN}}")
    )
    names, target = participants_of(task, cohort())
    assert (task.unit, len(names), target[0]) == ("points", 10, 5.0)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{name: a, colunm: b, kind: regression}", "near it: column"),
        ("{name: a, column: b, kind: ranking}", "classification or regression"),
        ("{name: a, column: b, kind: classification, positive: 1}", "positive and for negative"),
        ("{name: a, column: b, kind: classification, positive: 1, negative: [0, 1]}", "as positive and as negative"),
        ("[1, 2]", "no mapping"),
        ("{name: [", "no YAML"),
    ],
)
def test_a_bad_task_file_is_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_task(write(tmp_path, text))


def test_one_value_cannot_be_both_classes() -> None:
    with pytest.raises(UserError, match="positive and a negative"):
        TASKS["ad"].with_classes(("CN",), ())


MCI_WORDS = ["CN"] * 5 + ["AD"] * 5 + ["sMCI"] * 4 + ["pMCI"] * 4 + ["EMCI"] * 4 + ["LMCI"] * 4


@pytest.fixture(params=["folder", "corpus"])
def stages(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Cohort]:
    """A cohort whose table tells kinds of MCI, as its folder or as the corpus of its scans."""
    folder = make_study(tmp_path / "s", [f"sub-{number:02d}" for number in range(len(MCI_WORDS))])
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    table.assign(diagnosis=MCI_WORDS).to_csv(folder / "participants.tsv", sep="\t", index=False)
    if request.param == "corpus":
        folder = imported(folder, tmp_path / "c.zarr").path
    return lambda *values: load_cohort(folder, column_map((), values))


def test_kinds_of_mci_are_classes_and_all_of_them_are_mci(stages: Callable[..., Cohort]) -> None:
    def sizes(positive: tuple[str, ...], negative: tuple[str, ...], *values: str) -> tuple[int, int]:
        people, target = participants_of(TASKS["ad"].with_classes(positive, negative), stages(*values))
        return len(people), int(target.sum())

    assert sizes((), ()) == (10, 5)
    assert sizes(("pMCI",), ("sMCI",)) == (8, 4)
    assert sizes(("pmci",), ("sMCI",)) == (8, 4)
    assert sizes(("AD", "MCI"), ()) == (26, 21)
    assert sizes(("pMCI",), ("MCI",)) == (16, 4)
    assert sizes((), (), "EMCI=CN") == (14, 5)
    assert sizes(("MCI",), (), "EMCI=CN") == (21, 12)
    assert sizes((), (), "MCI=AD") == (26, 21)


def test_progressive_against_stable_mci_runs_from_the_front_door(tmp_path: Path, run: Run) -> None:
    folder = make_study(tmp_path / "s", [f"sub-{number:02d}" for number in range(len(MCI_WORDS))])
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    table.assign(DX=MCI_WORDS).to_csv(folder / "participants.tsv", sep="\t", index=False)
    words = ("--columns", "adni", "--positive", "pMCI", "--negative", "sMCI", "--folds", 2)
    grid = ("--mode", "frozen", "--shape", "20,22,20", "--spacing", 8)
    answer = run("finetune", "run", "--task", "ad", "--cohort", folder, "--out", tmp_path / "r", *words, *grid)
    assert answer.code == 0, answer.err
    assert "pMCI against sMCI: 8 people" in answer.out
