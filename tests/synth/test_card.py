"""The card of a corpus: what people and programs are told about it."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from synth.card import card_text, croissant, front_matter
from synth.corpus import Corpus
from synth.generator import GeneratorSpec, Params
from synth.provenance import licence_text, restrictions, summary
from synth.sample import Sample
from tests.synth.test_export import HEAD, Seen, made


class Licensed(Seen):
    """Made from sources with the licences named, one a source."""

    def __init__(self, terms: tuple[str, ...] = (), deep: str = "") -> None:
        super().__init__()
        self.terms, self.deep = terms, deep

    def parents(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [
            {"kind": "label map", "name": f"p{n}|<i>", "sha256": f"{n:064d}", "licence": term}
            for n, term in enumerate(self.terms)
        ]
        if self.deep:
            above = {"kind": "scan", "name": "s", "sha256": "1", "licence": self.deep}
            found.append({"kind": "corpus", "name": "c", "sha256": "2", "licence": "MIT", "parents": [above]})
        return found


class Scans(Seen):
    """Called as the generator of real scans is."""


class Video(Seen):
    """Called as the generator of clips is."""


class Odd(Seen):
    """Covariates whose names and words are odd, and none that every reader knows."""

    def render(self, params: Params) -> Sample:
        sample = super().render(params)
        return Sample(sample.image, None, {"größe": params["level"], "parent": "a|b\n`c`"}, sample.affine)


def corpus_of(folder: Path, name: str, count: int = 3, **options: Any) -> Corpus:
    """A corpus of a generator of this file."""
    return made(folder, GeneratorSpec(f"tests.synth.test_card.{name}", options), count)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Heads, the built-in label map among their parents."""
    return made(tmp_path_factory.mktemp("heads"), HEAD)


def front_of(text: str) -> dict[str, Any]:
    """The YAML between the first two lines of dashes."""
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_card_says_what_is_in_the_corpus(heads: Corpus) -> None:
    text = card_text(heads)
    ages = [entry["covariates"]["age"] for entry in heads.entries()]
    assert "3 volumes of 16 × 18 × 16 voxels, 11 × 11 × 11 mm, 1 channel, orientation RAS+" in text
    assert "stored as float16" in text and "2 volumes a shard" in text
    assert f"label maps of {len(heads.header.labels)} structures" in text
    assert "generator `LabelMap`, contrast t1w, seed 3" in text
    assert f"mean {sum(ages) / 3:.4g}, SD " in text
    assert heads.identity() in text and heads.header.fingerprint in text
    assert "brainloom synth verify made.zarr" in text
    for package, version in heads.header.versions.items():
        assert f"{package} {version}" in text


def test_the_card_holds_the_whole_recipe(heads: Corpus) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)\n```", card_text(heads), re.DOTALL)
    assert yaml.safe_load(block) == heads.header.recipe


@pytest.mark.parametrize("who", ["head", "odd"])
def test_the_lines_of_python_on_the_card_read_the_corpus(
    who: str, heads: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = heads if who == "head" else corpus_of(tmp_path, "Odd")
    (block,) = re.findall(r"```python\n(.*?)\n```", card_text(corpus), re.DOTALL)
    monkeypatch.chdir(corpus.path.parent)
    names: dict[str, Any] = {}
    exec(block, names)
    assert len(block.splitlines()) == 3 and names["volume"].shape == corpus.image_shape
    if who == "head":
        assert float(names["age"]) == corpus.entry(0)["covariates"]["age"]


@pytest.mark.parametrize(
    "name, says, never",
    [
        ("Seen", "Everyone in it is simulated", "are real"),
        ("Scans", "The people in it are real", "simulated"),
        ("Video", "Nobody in it is a patient", "simulated"),
    ],
)
def test_the_card_says_whose_volumes_they_are(name: str, says: str, never: str, tmp_path: Path) -> None:
    spec = f"tests.synth.test_{'export' if name == 'Seen' else 'card'}.{name}"
    corpus = made(tmp_path, GeneratorSpec(spec), 1)
    for text in (card_text(corpus), croissant(corpus)["description"]):
        assert says in text and never not in text
    assert ("synthetic" in front_matter(corpus)["tags"]) == (name == "Seen")


@pytest.mark.parametrize(
    "terms, found",
    [
        (("CC BY 4.0",), "cc-by-4.0"),
        (("CC BY 4.0", "MIT", "MIT"), ["cc-by-4.0", "mit"]),
        (("CC BY 4.0", "ask Bob"), "other"),
        ((), "other"),
    ],
)
def test_the_front_matter_has_licence_tags_and_size(terms: tuple[str, ...], found: Any, tmp_path: Path) -> None:
    front = front_of(card_text(corpus_of(tmp_path, "Licensed", terms=terms)))
    assert front["license"] == found and ("license_name" in front) == (found == "other")
    assert "zarr" in front["tags"] and front["size_categories"] == ["n<1K"]
    assert front["task_categories"] == ["image-segmentation"]


def test_licences_of_every_generation_are_on_the_card(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "Licensed", terms=("CC BY 4.0", "CC0"), deep="CC BY-NC 4.0")
    text = card_text(corpus)
    for licence in ("CC BY 4.0", "CC0", "MIT", "CC BY-NC 4.0"):
        assert f"\n- {licence} (1 parent)" in text and licence in licence_text(corpus)
    assert "**Commercial use is forbidden by 'CC BY-NC 4.0', and so it is for the whole corpus.**" in text
    assert croissant(corpus)["license"] == ["CC BY 4.0", "CC BY-NC 4.0", "CC0", "MIT"]


@pytest.mark.parametrize(
    "licence, word",
    [
        ("CC BY-NC-SA 4.0", "Commercial"),
        ("cc-by-nc-4.0", "Commercial"),
        ("for non-commercial research", "Commercial"),
        ("Research use only", "Commercial"),
        ("CC BY-ND 4.0", "Derived"),
        ("as the label maps'", "find out"),
        ("not stated", "find out"),
    ],
)
def test_a_licence_that_forbids_or_says_nothing_is_named(licence: str, word: str) -> None:
    assert any(word in sentence and licence in sentence for sentence in restrictions([licence]))


@pytest.mark.parametrize("licence", ["CC BY 4.0", "CC BY-SA 4.0", "MIT", "Apache-2.0", "CC0 1.0", "PDDL"])
def test_a_free_licence_forbids_nothing(licence: str) -> None:
    assert restrictions([licence]) == []


def test_the_notice_of_the_built_in_label_map_is_on_the_card(heads: Corpus, tmp_path: Path) -> None:
    assert "Copyright (C) 1993-2004 Louis Collins" in card_text(heads)
    assert "Louis Collins" not in card_text(corpus_of(tmp_path, "Licensed", terms=("MIT",)))


def test_many_parents_are_counted_not_listed(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "Licensed", 1, terms=("MIT",) * 45)
    text = card_text(corpus)
    assert "- MIT (45 parents)" in text and "and 25 more" in text and text.count("| label map |") == 20


def test_odd_words_break_neither_table_nor_front_matter(tmp_path: Path) -> None:
    text = card_text(corpus_of(tmp_path, "Odd"))
    assert front_of(text)["pretty_name"] == "made.zarr"
    (row,) = [line for line in text.splitlines() if line.startswith("| parent |")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 4 and r"a\|b \`c\` 3" in row


def test_the_card_is_a_function_of_the_corpus(heads: Corpus) -> None:
    assert card_text(heads) == card_text(Corpus(heads.path))
    assert json.dumps(croissant(heads)) == json.dumps(croissant(Corpus(heads.path)))


def test_columns_in_words() -> None:
    assert summary([1.0, 2.0, None]) == "mean 1.5, SD 0.707, 1 to 2; 1 missing"
    assert summary([3.0]) == "mean 3, 3 to 3"
    assert summary(["b", "a", "b", None]) == "b 2, a 1; 1 missing"
    assert summary([f"w{n:02d}" for n in range(30)]).endswith("w19 1, and 10 more")


# --- croissant ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["head", "odd", "seen"])
def test_mlcroissant_loads_it_without_a_complaint_and_reads_the_records(
    who: str, heads: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mlc = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    if who == "head":
        corpus = made(tmp_path, HEAD)
    else:
        corpus = corpus_of(tmp_path, "Odd", 5) if who == "odd" else made(tmp_path, "Seen", 5)
    path = corpus.path / "croissant.json"
    path.write_text(json.dumps(croissant(corpus, published="2026-01-31")))
    with caplog.at_level(logging.WARNING):
        dataset = mlc.Dataset(path)
    assert not dataset.metadata.ctx.issues.errors and not dataset.metadata.ctx.issues.warnings
    records = list(dataset.records("samples"))
    assert len(records) == len(corpus)
    column = {"head": "age", "seen": "age", "odd": "größe"}[who]
    for record, entry in zip(records, corpus.entries(), strict=True):
        assert record["samples/index"] == entry["index"] and record["samples/sha256"].decode() == entry["sha256"]
        assert record[f"samples/covariates/{column}"] == pytest.approx(entry["covariates"][column])
    assert "samples/covariates/note" not in records[0]  # some samples lack it


def test_every_file_set_matches_files_of_the_folder(heads: Corpus) -> None:
    from fnmatch import fnmatch

    inside = [path.relative_to(heads.path).as_posix() for path in heads.path.rglob("*") if path.is_file()]
    sets = {found["@id"]: found["includes"] for found in croissant(heads)["distribution"]}
    assert set(sets) == {"records", "image", "label", "metadata"}
    for glob in sets.values():
        assert any(fnmatch(path, glob) for path in inside), glob


def test_the_date_is_the_publishers_to_give(heads: Corpus) -> None:
    assert "datePublished" not in croissant(heads)
    assert croissant(heads, "2026-01-31")["datePublished"] == "2026-01-31"
