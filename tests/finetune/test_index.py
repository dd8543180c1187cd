"""The index of scans: ten thousand people, remembered, and never out of date."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune import index
from finetune.cohort import load_cohort
from finetune.index import cache_folder, index_scans, remembered
from tests.finetune.studies import make_study

FOUR = ["sub-01", "sub-02/ses-1", "sub-02/ses-2", "sub-03"]


def settle(folder: Path) -> None:
    """Make every folder and file an hour old: the index trusts no time stamp of just now."""
    for place in [folder, *folder.rglob("*")]:
        then = place.stat().st_mtime - 3600
        os.utime(place, (then, then))


def names(folder: Path) -> dict[str, list[str]]:
    found = index_scans(folder, ["sub-01", "sub-02", "sub-03"])
    return {who: [Path(scan.name).name for scan in scans] for who, scans in found.items()}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_people_are_indexed_and_found_again(tmp_path: Path) -> None:
    people = [f"sub-{number:05d}" for number in range(10_000)]
    for name in people:
        anat = tmp_path / "s" / name / "ses-1" / "anat"
        anat.mkdir(parents=True)
        (anat / f"{name}_ses-1_T1w.nii.gz").write_bytes(b"x")
    table = ["participant_id\tage", *(f"{name}\t{20 + number % 60}" for number, name in enumerate(people))]
    (tmp_path / "s/participants.tsv").write_text("\n".join(table) + "\n")
    first, again = load_cohort(tmp_path / "s"), load_cohort(tmp_path / "s")
    assert len(first.scans) == 10_000
    assert first.scans == again.scans


def test_nothing_is_listed_again_while_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path / "s", FOUR)
    settle(folder)
    before = names(folder)
    monkeypatch.setattr(index, "_list", lambda *_: pytest.fail("listed again"))
    assert names(folder) == before
    assert before["sub-02"] == ["sub-02_ses-1_T1w.nii.gz", "sub-02_ses-2_T1w.nii.gz"]


def test_a_scan_put_there_or_taken_away_is_noticed(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", FOUR)
    settle(folder)
    names(folder)
    fresh = folder / "sub-01/ses-7/anat/sub-01_ses-7_T1w.nii"
    fresh.parent.mkdir(parents=True)
    fresh.write_bytes(b"x")
    (folder / "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz").unlink()
    found = names(folder)
    assert found["sub-01"] == ["sub-01_T1w.nii.gz", "sub-01_ses-7_T1w.nii"]
    assert found["sub-02"] == ["sub-02_ses-2_T1w.nii.gz"]


def test_a_folder_changed_just_now_is_not_trusted(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", FOUR)
    names(folder)
    assert not list(cache_folder().rglob("*index*"))


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[1]", b'{"format": 99, "content": {}}', b'{"format": 1, "content": 3}']
)
def test_a_damaged_or_deleted_memory_only_costs_time(tmp_path: Path, damage: bytes) -> None:
    folder = make_study(tmp_path / "s", FOUR)
    settle(folder)
    before = names(folder)
    (kept,) = cache_folder().rglob("*index*")
    kept.write_bytes(damage)
    assert names(folder) == before
    kept.unlink()
    assert names(folder) == before


def test_a_cache_folder_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path / "s", FOUR)
    settle(folder)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BRAINLOOM_CACHE", str(tmp_path / "file"))
    assert len(names(folder)["sub-02"]) == 2


def test_a_checksum_is_made_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text("1")
    settle(tmp_path)
    made: list[str] = []

    def make(path: Path) -> str:
        made.append(path.name)
        return path.read_text()

    assert [said for _, said in remembered(tmp_path, "k", files, make)] == ["1", "1"]
    files[1].write_text("22")
    assert [said for _, said in remembered(tmp_path, "k", files, make)] == ["1", "22"]
    assert sorted(made) == ["a", "b", "b"]


def test_hidden_files_other_contrasts_and_circles_of_links_are_left_alone(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", FOUR)
    anat = folder / "sub-01" / "anat"
    for name in ("._sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz", "sub-01_T1w.json"):
        (anat / name).write_bytes(b"x")
    (folder / "sub-01" / "loop").symlink_to(folder / "sub-01")
    assert names(folder)["sub-01"] == ["sub-01_T1w.nii.gz"]
