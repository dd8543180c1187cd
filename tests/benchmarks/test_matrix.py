"""kind: matrix — every source, objective and backbone at equal compute, resumable, beside its controls."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.matrix import Matrix
from benchmarks.matrix_figures import ranked
from benchmarks.recipe import read_recipe
from pretrain.objectives import BUILT_IN
from synth.corpus import Corpus
from synth.errors import UserError
from synth.generator import GeneratorSpec
from tests.benchmarks.profiles import PROFILE
from tests.conftest import Run
from tests.finetune.studies import make_study

BLOBS = GeneratorSpec("pretrain.testing.Blobs", {})
SMALL: dict[str, Any] = {
    "count": 40,
    "people": BLOBS,
    "people_count": 24,
    "backbones": ("vit_xs", "sfcn_s"),
    "objectives": ("supervised", "mae"),
    "steps": 2,
    "batch_size": 8,
    "fractions": (50.0, 100.0),
    "seeds": 1,
    "folds": 2,
    "epochs": 1,
    "workers": 0,
}


def test_a_matrix_fills_every_cell_it_can_and_says_which_it_cannot(tmp_path: Path) -> None:
    matrix = Matrix({"blobs": BLOBS, "again": BLOBS}, **SMALL)
    assert matrix.run(tmp_path) == 0
    results = json.loads((tmp_path / "matrix.json").read_text())
    names = {row["name"] for row in results["rows"] if row["mode"] == "frozen" and "untrained" not in row["name"]}
    whole = [f"vit_xs, {source}, {objective}" for source in ("blobs", "again") for objective in ("supervised", "mae")]
    assert names == {f"{name}, frozen" for name in [*whole, "sfcn_s, blobs, supervised", "sfcn_s, again, supervised"]}
    assert set(results["left_out"]) == {"sfcn_s-blobs-mae", "sfcn_s-again-mae"}
    assert {row["percent"] for row in results["rows"]} == {50.0, 100.0}
    assert {"labels shuffled", "planted signal", "predicting the mean"} <= {row["name"] for row in results["rows"]}
    assert "vit_xs, blobs, mae" in (tmp_path / "report.html").read_text()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("weights/*/model.safetensors")}
    assert Matrix({"blobs": BLOBS, "again": BLOBS}, **SMALL).run(tmp_path) == 0
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.glob("weights/*/model.safetensors")}


def test_each_seed_of_the_protocol_takes_a_pre_training_of_its_own(tmp_path: Path) -> None:
    options = {**SMALL, "backbones": ("sfcn_s",), "objectives": ("supervised",), "fractions": (100.0,), "seeds": 3}
    assert Matrix({"blobs": BLOBS}, **options, pretrain_seeds=2).run(tmp_path) == 0
    names = ["sfcn_s-blobs-supervised", "sfcn_s-blobs-supervised-seed1"]
    first, second = ((tmp_path / "weights" / name / "model.safetensors").read_bytes() for name in names)
    assert first != second
    results = json.loads((tmp_path / "results" / "age" / "results.json").read_text())
    name = "sfcn_s, blobs, supervised, frozen"
    told = next(row["weights"] for row in results["arms"] if row["name"] == name)
    assert (told["folder"], told["again"]) == (names[0], names[1:])
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "age" / "arms").glob("*.json")]
    taken = {one["seed"]: Path(one["arm"]["weights"]).name for one in records if one["arm"]["name"] == name}
    assert taken == {0: names[0], 1: names[1], 2: names[0]}
    (row,) = [row for row in json.loads((tmp_path / "matrix.json").read_text())["rows"] if row["source"] == "blobs"]
    assert row["objective"] == "supervised"


def test_pre_training_goes_on_from_a_start_beside_the_start_itself(tmp_path: Path) -> None:
    chosen = {"backbones": ("sfcn_s",), "objectives": ("supervised",), "fractions": (100.0,)}
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    options: dict[str, Any] = {**SMALL, **chosen}
    assert Matrix({"blobs": BLOBS}, **options).run(earlier) == 0
    start = str(earlier / "weights" / "sfcn_s-blobs-supervised")
    inits = {"earlier": {"sfcn_s": start}}
    assert Matrix({"blobs": BLOBS}, **options, inits=inits, pretrained_from=("earlier",)).run(later) == 0
    configs = {path.parent.name: json.loads(path.read_text()) for path in later.glob("weights/*/config.json")}
    assert set(configs) == {"sfcn_s-blobs-supervised", "sfcn_s-blobs after earlier-supervised"}
    began = {name: config["training"]["init"] for name, config in configs.items()}
    assert began == {"sfcn_s-blobs-supervised": "scratch", "sfcn_s-blobs after earlier-supervised": start}
    rows = json.loads((later / "matrix.json").read_text())["rows"]
    sources = {row["name"]: row["source"] for row in rows if row["name"].startswith("sfcn_s")}
    assert sources["sfcn_s, earlier, frozen"] is None  # the start as it is
    assert sources["sfcn_s, blobs after earlier, supervised, frozen"] == "blobs after earlier"


def test_the_best_is_first_whichever_way_the_metric_goes() -> None:
    def row(value: float, higher: bool) -> dict[str, Any]:
        return {"metrics": {"all": {"m": {"value": value}}}, "main_metric": "m", "higher_is_better": higher}

    assert [one["metrics"]["all"]["m"]["value"] for one in ranked([row(1, True), row(2, True)])] == [2, 1]
    assert [one["metrics"]["all"]["m"]["value"] for one in ranked([row(2, False), row(1, False)])] == [1, 2]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"people": None}, "cohort"),
        ({"fractions": (0.0,)}, "fractions"),
        ({"steps": 0}, "steps"),
        ({"sources": {}}, "sources"),
        ({"pretrain_seeds": 2}, "at most as many"),
        ({"align": True}, "strip: true"),
        ({"modes": ("frosen",)}, "frosen"),
        ({"inits": {"video": {"vit_b": "somewhere"}}}, "vit_b"),
        ({"pretrained_from": ("video",)}, "video"),
        ({"externals": {"pd": Path("somewhere")}}, "pd"),
    ],
)
def test_what_cannot_be_run_is_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        Matrix(**{"sources": {"blobs": BLOBS}, **SMALL, **options})


def test_the_recipe_of_objectives_holds_all_of_them_and_its_people_have_other_anatomies(checkout: Path) -> None:
    recipe: Any = read_recipe(checkout / "benchmarks" / "recipes" / "objectives.yaml")
    assert set(recipe.objectives) == set(BUILT_IN)
    (volumes,) = recipe.sources.values()
    assert volumes.init_args["anatomies"] != recipe.people.init_args["anatomies"]
    assert recipe.seeds >= 5 and recipe.beside


def test_a_recipe_s_cohort_can_be_another_one(tmp_path: Path, checkout: Path) -> None:
    recipe: Any = read_recipe(checkout / "benchmarks" / "recipes" / "ixi_age.yaml", {"cohort": str(tmp_path)})
    assert recipe.cohort == tmp_path and recipe.sources["synthetic"].class_path == "LabelMap"


def test_a_stranger_s_generator_is_judged_beside_the_profile_s(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE)
    code = "from pretrain.testing import Blobs\n\n\nclass Stranger(Blobs):\n    pass\n"
    (tmp_path / "stranger_package.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = (
        "benchmark",
        "run",
        "--generator",
        "stranger_package.Stranger",
        "--profile",
        "profile.yaml",
        "--out",
        "report",
    )
    answer = run(*words)
    assert answer.code == 0, answer.err
    rows = json.loads((tmp_path / "report" / "matrix.json").read_text())["rows"]
    assert {"sfcn_s, blobs, supervised, frozen", "sfcn_s, Stranger, supervised, frozen"} <= {
        row["name"] for row in rows
    }


def test_an_installed_package_is_judged_by_the_name_it_gives_itself(
    installed: Path, tmp_path: Path, in_subprocess: Callable[[str], dict[str, str]]
) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE.replace("[supervised]", "[simclr]"))
    words = ["benchmark", "run", "--generator", "Onion", "--generator-options", "shells=4,noise=0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "brainloom", *words, "--profile", "profile.yaml", "--out", "report"],
        cwd=tmp_path,
        env=in_subprocess(str(installed)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "report" / "matrix.json").read_text())
    assert told["options"]["sources"]["Onion"]["init_args"]["shells"] == 4
    assert {one["source"] for one in told["ranking"]} == {"blobs", "Onion"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Sources at equal compute" in page and "Where sfcn-s" in page


def test_what_a_generator_s_volumes_cannot_teach_is_said_on_the_page(tmp_path: Path) -> None:
    matrix = Matrix({"blobs": BLOBS}, **{**SMALL, "backbones": ("sfcn_s",), "objectives": ("mae", "simclr")})
    assert matrix.run(tmp_path) == 0
    assert "Left out: sfcn_s-blobs-mae" in (tmp_path / "report.md").read_text()


def test_a_recipe_s_profile_and_a_cohort_for_each_task(tmp_path: Path, checkout: Path) -> None:
    from benchmarks.recipe import chosen_recipe

    path = checkout / "benchmarks" / "recipes" / "dhinagar2023.yaml"
    tiny: Any = chosen_recipe(path, False, None, (), ())
    assert tiny.people is not None and list(tiny.sources) == ["synthetic", "scans (simulated)"] and not tiny.inits
    words = tuple(f"{task}={tmp_path / task}" for task in ("ad", "pd", "age"))
    full: Any = chosen_recipe(path, False, None, words, (f"ad={tmp_path / 'oasis'}",))
    assert full.cohorts["pd"] == tmp_path / "pd" and full.externals == {"ad": tmp_path / "oasis"}
    assert full.people is None and full.test_site is None and set(full.inits) == {"natural images", "video"}
    small: Any = chosen_recipe(path, False, "tiny", words, ())
    assert small.test_site is None and small.people is None and small.fractions == (25.0, 100.0)
    with pytest.raises(UserError, match="people for age"):
        chosen_recipe(path, False, None, words[:2], ())


def test_a_task_that_its_cohort_cannot_serve_is_left_out_before_anything_is_made(
    people: Corpus, tmp_path: Path
) -> None:
    few = make_study(tmp_path / "few", [f"sub-{n:02}" for n in range(6)])
    options = {**SMALL, "backbones": ("sfcn_s",), "objectives": ("supervised",), "people": None}
    matrix = Matrix({"blobs": BLOBS}, **options, tasks=("ad", "age"), cohorts={"ad": people.path, "age": few})
    assert matrix.run(tmp_path / "out") == 0
    told = json.loads((tmp_path / "out" / "matrix.json").read_text())
    assert "expected at least" in told["left_out"]["age"] and {row["task"] for row in told["rows"]} == {"ad"}
    with pytest.raises(UserError, match="expected at least"):
        Matrix({"blobs": BLOBS}, **options, tasks=("age",), cohort=few).run(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "words",
    [(), ("some.yaml", "--generator", "LabelMap"), ("--generator", "Nobody"), ("--generator", "LabelMap"),
     ("--generator", "Video", "--profile", "nowhere")],
)  # fmt: skip
def test_a_generator_that_cannot_be_judged_is_refused(tmp_path: Path, run: Run, words: tuple[str, ...]) -> None:
    answer = run("benchmark", "run", *words, "--out", tmp_path / "report")
    assert answer.code == 2 and "Traceback" not in answer.err and not (tmp_path / "report").exists()


def test_the_tiny_profile_is_a_matrix(checkout: Path) -> None:
    assert isinstance(read_recipe(checkout / "benchmarks" / "recipes" / "tiny.yaml"), Matrix)
