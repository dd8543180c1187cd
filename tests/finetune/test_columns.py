"""Names of columns and meanings of values: by words, by file, by a ready map."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from finetune.cohort import load_cohort
from finetune.columns import column_map, ready_maps
from synth.errors import UserError
from tests.conftest import Run
from tests.finetune.studies import imported, make_study

FOUR = ["sub-01", "sub-02", "sub-03", "sub-04"]


def test_columns_and_values_are_read_as_they_are_told() -> None:
    table = pd.DataFrame({"DX_bl": ["HC", "Dementia", "nc ", None], "AGE": [1, 2, 3, 4], "diagnosis": ["x"] * 4})
    found = column_map(("diagnosis=DX_bl", "age=AGE"), ("HC=0", "NC=CN", "Dementia=AD")).apply(table)
    assert found["diagnosis"].fillna("").tolist() == ["CN", "AD", "CN", ""]
    assert found["age"].tolist() == [1, 2, 3, 4]
    assert found["DX_bl"].fillna("").tolist() == ["HC", "Dementia", "nc ", ""]


def test_code_numbers_are_the_same_with_and_without_a_point() -> None:
    table = pd.DataFrame({"cdr": [0.0, 0.5, float("nan"), 1.0], "sex": [1, 2, 1, 2], "age": ["89+", "70", "71", "72"]})
    told = column_map(("diagnosis=cdr",), ("0=CN", "0.5=MCI", "1.0=AD", "sex:1=M", "sex:2=F", "age:89+=89"))
    found = told.apply(table)
    assert found["diagnosis"].fillna("").tolist() == ["CN", "MCI", "", "AD"]
    assert found["sex"].tolist() == ["M", "F", "M", "F"]
    assert found["age"].tolist() == [89, 70, 71, 72]


def test_a_word_goes_over_a_ready_map_wherever_it_stands() -> None:
    for words in (("oasis1", "age=years"), ("age=years", "oasis1")):
        found = column_map(words).apply(pd.DataFrame({"Age": [1], "years": [2], "CDR": [0.5], "M/F": ["F"]}))
        assert (found["age"][0], found["diagnosis"][0], found["sex"][0]) == (2, "AD", "F")


@pytest.mark.parametrize("name", ready_maps())
def test_every_ready_map_can_be_read_and_names_our_columns(name: str) -> None:
    told = column_map((name,))
    assert {"age", "sex"} <= set(told.columns)
    for theirs in told.columns["sex"]:
        for value, meaning in told.values.get("sex", {}).items():
            assert told.apply(pd.DataFrame({theirs: [value]}))["sex"].tolist() == [meaning]


def test_the_cohorts_people_ask_for_have_ready_maps() -> None:
    asked = {"adni", "oasis1", "oasis2", "oasis3", "aibl", "ppmi", "pd", "ixi", "camcan", "ukb"}
    assert asked <= set(ready_maps())


def test_ppmi_cohort_numbers_become_diagnoses() -> None:
    found = column_map(("ppmi",)).apply(pd.DataFrame({"COHORT": [1, 2, 3, 4], "SEX": [0, 1, 0, 1]}))
    assert found["diagnosis"].tolist() == ["PD", "CN", "SWEDD", "prodromal"]
    assert found["sex"].tolist() == ["F", "M", "F", "M"]


def test_mild_impairment_in_parkinsons_disease_is_still_parkinsons_disease() -> None:
    found = column_map(("pd",)).apply(pd.DataFrame({"group": ["HC", "PD-NC", "PD-MCI"]}))
    assert found["diagnosis"].tolist() == ["CN", "PD", "PD"]


def test_a_map_of_ones_own_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("columns: {diagnosis: [a, b]}\nvalues: {diagnosis: {PD: [x, 7]}}\n")
    found = column_map((str(tmp_path / "mine.yaml"),)).apply(pd.DataFrame({"b": ["X", 7, "y"]}))
    assert found["diagnosis"].tolist() == ["PD", "PD", "y"]


def test_a_corpus_takes_the_same_names_as_its_folder(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", FOUR)
    table = pd.read_csv(folder / "participants.tsv", sep="\t").rename(columns={"sex": "M/F"})
    table.assign(state=["NC", "Ill", "NC", "Ill"]).to_csv(folder / "participants.tsv", sep="\t", index=False)
    told = column_map(("diagnosis=state", "sex=M/F"), ("Ill=PD",))
    direct, corpus = load_cohort(folder, told), load_cohort(imported(folder, tmp_path / "c.zarr").path, told)
    for cohort in (direct, corpus):
        assert cohort.table["diagnosis"].tolist() == ["CN", "PD", "CN", "PD"]
        assert cohort.table["sex"].tolist() == ["F", "M", "F", "M"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--columns", "diagnosis=DX_bl"], "no such column; expected one of its own, such as"),
        (["--columns", "adnii"], "ready maps are adni, aibl"),
        (["--columns", "dx=DX_bl"], "one of age, sex, diagnosis, site"),
        (["--columns", "age="], "nothing on one side"),
        (["--values", "NC"], "has no ="),
        (["--values", "NC=1"], "another diagnosis in each task"),
        (["--values", "stage:1=2"], "one of age, sex, diagnosis, site"),
        (["--visits", "second"], "visits"),
    ],
)
def test_bad_words_are_one_sentence_and_nothing_is_written(
    tmp_path: Path, run: Run, words: list[str], said: str
) -> None:
    folder = make_study(tmp_path / "s", FOUR)
    answer = run("finetune", "run", "--task", "age", "--cohort", folder, "--out", tmp_path / "r", *words)
    assert answer.code == 2 and answer.err.count("\n") == 1
    assert said in answer.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("text", ["columns: [age]", "- x", "values: {diagnosis: CN}", "{", "other: 1"])
def test_a_file_that_is_no_map_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UserError, match="column map"):
        column_map((str(tmp_path / "m.yaml"),))
