"""brainloom synth audit from end to end: exit code, audit.json, the page, and what is refused."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from synth.corpus import Corpus
from synth.engine import Job, generate
from synth.generator import GeneratorSpec
from tests.conftest import ROOT, Run
from tests.synth.heads import Heads

HEADS = "tests.synth.heads.Heads"
QUICK = ("--segmenter-steps", 30, "--pairs", 5)
WIDE = ("--max-copies", 0.3)  # 12 or 20 samples without a copy leave up to 26 or 17 % possible


def make(out: Path, count: int, seed: int, **options: object) -> Path:
    generate(Job(GeneratorSpec(HEADS, dict(options)), count, seed, out))
    return out


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("heads")
    made = {
        "reference": make(folder / "reference.zarr", 30, 0),
        "holdout": make(folder / "holdout.zarr", 20, 1),
        "fresh": make(folder / "fresh.zarr", 20, 2, label_maps=False),
        "bare": make(folder / "bare.zarr", 20, 3, label_maps=False),
        "alike": make(folder / "alike.zarr", 12, 4, label_maps=False, alike=True),
        "few": make(folder / "few.zarr", 4, 5),
        "coarse": make(folder / "coarse.zarr", 12, 6, shape=(20, 24, 20), spacing=8.0),
    }
    copied = GeneratorSpec("synth.audit.planted.Planted", {"source": made["reference"], "share": 0.3})
    generate(Job(copied, 20, 7, folder / "copied.zarr"))
    return {**made, "copied": folder / "copied.zarr"}


@pytest.fixture(scope="module")
def audited(corpora: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit of new heads with held-out ones."""
    import brainloom

    out = tmp_path_factory.mktemp("audits") / "fresh"
    words = ["synth", "audit", corpora["fresh"], "--reference", corpora["reference"], "--holdout", corpora["holdout"]]
    assert brainloom.main([str(word) for word in (*words, "--out", out, *QUICK, *WIDE)]) == 0
    return out


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "audit.json").read_text())
    return found


def test_new_heads_pass_the_gate(audited: Path) -> None:
    found = results(audited)
    assert found["copies"]["rate"] == 0
    assert found["copies"]["known"] == {"count": 20, "found": 20}
    verdict = {"passes": True, "state": "passes", "why": [], "copies_rate": 0.0, "max_copies": 0.3}
    assert found["verdict"] == {**verdict, "copies_high": found["copies"]["high"]}


def test_copies_fail_the_gate_with_exit_code_1_and_pass_a_wider_one(
    run: Run, corpora: dict[str, Path], tmp_path: Path
) -> None:
    words = ("synth", "audit", corpora["copied"], "--reference", corpora["reference"], *QUICK)
    answer = run(*words, "--out", tmp_path / "a")
    assert answer.code == 1
    assert "samples judged copies" in answer.out and "fails" in answer.out
    copies = results(tmp_path / "a")["copies"]
    assert copies["rate"] > 0.1
    assert run(*words, "--out", tmp_path / "b", "--max-copies", copies["high"]).code == 0


def test_too_few_samples_do_not_pass_a_gate_that_they_cannot_speak_of(
    run: Run, corpora: dict[str, Path], tmp_path: Path
) -> None:
    words = ("--reference", corpora["reference"], "--out", tmp_path / "audit", *QUICK)
    answer = run("synth", "audit", corpora["fresh"], *words)
    assert answer.code == 1
    assert "is not judged" in answer.out and "leaves up to 16.84% of them possible" in answer.err
    assert "368 samples without a copy" in answer.err
    found = results(tmp_path / "audit")
    assert found["copies"]["rate"] == 0 and not found["verdict"]["passes"]
    assert found["not_judged"][0] == found["verdict"]["why"][0]
    assert "The gate is not judged." in Page((tmp_path / "audit" / "audit.html").read_text()).words


def test_people_who_come_several_times_without_a_name_leave_the_gate_unjudged(run: Run, tmp_path: Path) -> None:
    """Their threshold is that of one person's visits: copies are no nearer."""
    made = {}
    people: dict[str, dict[str, Any]] = {"visits": {"named": False}, "fresh": {"visits": 1, "people": 9}}
    for seed, (name, options) in enumerate(people.items()):
        made[name] = tmp_path / f"{name}.zarr"
        generate(Job(GeneratorSpec("tests.synth.heads.Visits", options), 30, seed, made[name]))
    answer = run(
        "synth", "audit", made["fresh"], "--reference", made["visits"], "--out", tmp_path / "audit", *QUICK, *WIDE
    )
    assert answer.code == 1 and "participant_id" in answer.err
    assert results(tmp_path / "audit")["verdict"]["state"] == "is not judged"


class Learnt(Heads):
    """Heads whose record says that a network learnt them from a corpus."""

    def __init__(self, corpus: Path) -> None:
        super().__init__(label_maps=False)
        self.corpus = Corpus(Path(corpus))

    def parents(self) -> list[dict[str, Any]]:
        learnt = {**self.corpus.parent(), "sha256": self.corpus.identity()}
        return [{"kind": "generator weights", "name": "ldm", "sha256": "ab" * 32}, learnt]


def test_samples_of_weights_are_judged_against_the_corpus_that_these_learnt_from_and_no_other(
    run: Run, corpora: dict[str, Path], tmp_path: Path
) -> None:
    made = tmp_path / "learnt.zarr"
    generate(Job(GeneratorSpec(f"{__name__}.Learnt", {"corpus": corpora["reference"]}), 12, 8, made))
    words = ("synth", "audit", made, *QUICK, *WIDE)
    assert run(*words, "--reference", corpora["reference"], "--out", tmp_path / "right").code == 0
    wrong = run(*words, "--reference", corpora["holdout"], "--out", tmp_path / "wrong")
    assert wrong.code == 1 and "learnt from corpus reference.zarr" in wrong.err
    asked = ("--reference", corpora["bare"], "--holdout", corpora["reference"], "--out", tmp_path / "leak")
    leak = run(*words, *asked)
    assert leak.code == 2 and "is among what" in leak.err and not (tmp_path / "leak").exists()


def test_the_same_inputs_give_the_same_audit(run: Run, corpora: dict[str, Path], audited: Path, tmp_path: Path) -> None:
    words = ("--reference", corpora["reference"], "--holdout", corpora["holdout"], "--out", tmp_path / "again")
    assert run("synth", "audit", corpora["fresh"], *words, *QUICK, *WIDE).code == 0
    for name in ("audit.json", "copies.tsv"):
        assert (tmp_path / "again" / name).read_text() == (audited / name).read_text()


def test_audit_json_holds_what_its_documentation_says(audited: Path) -> None:
    found = results(audited)
    documented = re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs" / "audit.md").read_text(), re.MULTILINE)
    assert len(documented) > 20
    for path in documented:
        value: Any = found
        for name in path.split("."):
            assert isinstance(value, dict) and name in value, f"docs/audit.md names {path}, audit.json has no {name}"
            value = value[name]


def test_every_sample_has_a_line(audited: Path) -> None:
    head, *lines = (audited / "copies.tsv").read_text().splitlines()
    assert head.split("\t")[:3] == ["sample", "copy", "reference"]
    assert [line.split("\t")[0] for line in lines] == [str(i) for i in range(20)]


class Page(HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_is_complete_by_itself_and_accessible(audited: Path) -> None:
    text = (audited / "audit.html").read_text()
    page = Page(text)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) >= 15  # examples, ten pairs, histograms, features, volumes, quality
    for picture in pictures:
        assert str(picture["src"]).startswith("data:image/png;base64,")
        assert len(str(picture["alt"])) > 20
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert dict(page.tags)["html"] == {"lang": "en"}
    assert "prefers-color-scheme:dark" in text
    tables = [attributes for tag, attributes in page.tags if tag == "th"]
    assert tables and all(attributes["scope"] in ("col", "row") for attributes in tables)
    assert [tag for tag, _ in page.tags].count("caption") == [tag for tag, _ in page.tags].count("table")


def test_the_page_names_the_measurement_and_its_error(audited: Path) -> None:
    words = Page((audited / "audit.html").read_text()).words
    assert "untrained 3D CNN" in words
    assert "The measurement's own error, on 20 held-out volumes" in words
    assert results(audited)["volumes"]["method"]["errors"]["ventricles"]["r"] > 0.6


def test_without_held_out_volumes_and_label_maps_the_page_says_what_cannot_be_judged(
    run: Run, corpora: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    assert (
        run("synth", "audit", corpora["fresh"], "--reference", corpora["bare"], "--out", out, *QUICK, *WIDE).code == 0
    )
    said = " ".join(results(out)["not_judged"])
    assert "No held-out volumes were given" in said and "no label maps" in said
    assert said.split(". ")[0] in Page((out / "audit.html").read_text()).words
    assert "membership_auc" not in results(out)["copies"]["pixels"]
    assert results(out)["volumes"]["method"]["errors"] is None


def test_a_collapsed_generator_is_audited_and_its_lack_of_diversity_shown(
    run: Run, corpora: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    assert (
        run("synth", "audit", corpora["alike"], "--reference", corpora["reference"], "--out", out, *QUICK, *WIDE).code
        == 0
    )
    found = results(out)
    assert found["diversity"]["synthetic"]["value"] > 0.999 > found["diversity"]["reference"]["value"]
    assert found["fidelity"]["synthetic"]["recall"] < 0.1


@pytest.mark.parametrize(
    "made, options, says",
    [
        ("nowhere", {}, "there is no corpus"),
        ("few", {}, "holds 4 volume(s); an audit needs 10 or more"),
        ("coarse", {}, "expected one grid"),
        ("fresh", {"--holdout": "reference"}, "30 volume(s) of --holdout"),
        ("fresh", {"--holdout": "coarse"}, "expected one grid"),
        ("fresh", {"--max-copies": 1.5}, "--max-copies is 1.5; expected a share above 0"),
        ("fresh", {"--max-copies": 0}, "no number of samples shows"),
        ("fresh", {"--pairs": 0}, "expected 1 or more"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_and_nothing_is_written(
    run: Run, corpora: dict[str, Path], tmp_path: Path, made: str, options: dict[str, object], says: str
) -> None:
    words = [word for name, value in options.items() for word in (name, corpora.get(str(value), value))]
    synthetic = corpora.get(made, tmp_path / made)
    answer = run("synth", "audit", synthetic, "--reference", corpora["reference"], "--out", tmp_path / "out", *words)
    assert answer.code == 2
    assert says in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "out").exists()


def test_help_tells_of_the_gate(run: Run) -> None:
    answer = run("synth", "audit", "--help")
    assert answer.code == 0
    assert "Exit code 1 when more samples than --max-copies" in answer.out
