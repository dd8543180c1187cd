"""kind: matrix — sources of volumes × objectives × backbones, each pre-trained at equal compute and judged by one protocol.

Equal compute: every source gives as many volumes, every pre-training takes as many steps of as many volumes, every frozen
backbone is read by the same linear model with the same search. Scratch, the untrained backbone and the controls stand
beside them. Whatever is there already is kept, so a stopped run goes on.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.errors import UserError
from synth.generator import GeneratorSpec

if TYPE_CHECKING:
    from finetune.cohort import Cohort
    from finetune.protocol import Arm
    from finetune.tasks import Task
    from synth.nifti import Grid

Cell = tuple[str, str, str]  # backbone, source, objective
RESULTS, PICTURE = "matrix.json", "label_efficiency.png"


@dataclass(frozen=True)
class Matrix:
    """Which starts, on whom, how.

    Attributes:
        sources: name → generator of the volumes to pre-train on; all of one shape and spacing.
        count: volumes of each source.
        cohort: BIDS folder or corpus of people; ``people`` where it is absent.
        people: generator of a simulated cohort.
        people_count: how many.
        tasks: of ``finetune run``.
        backbones: of ``pretrain backbones``.
        objectives: of ``pretrain run``; a backbone that one cannot serve goes without, which the results say.
        steps, batch_size: of every pre-training.
        strip: whether the cohort's scans are brain-extracted first (needs deepbet).
        fractions: percent of the people to learn from.
        seeds: repetitions, each with its own folds, labelled people and initialisation.
        folds: of the cross-validation by person.
        test_site: people of this site are only tested, instead of cross-validation.
        epochs: of fine-tuning everything from scratch.
        finetuned: whether pre-trained backbones are fine-tuned whole too.
        seed: of volumes, people and pre-training.
        workers: Ray workers that make volumes; 0 for none.
    """

    sources: Mapping[str, GeneratorSpec]
    count: int = 1000
    cohort: Path | None = None
    people: GeneratorSpec | None = None
    people_count: int = 480
    tasks: tuple[str, ...] = ("age",)
    backbones: tuple[str, ...] = ("sfcn_s", "vit_xs")
    objectives: tuple[str, ...] = ("supervised", "mae", "masked", "simclr", "yaware", "segment", "contrasts")
    steps: int = 1000
    batch_size: int = 16
    strip: bool = False
    fractions: tuple[float, ...] = (25.0, 50.0, 100.0)
    seeds: int = 5
    folds: int = 5
    test_site: str | None = None
    epochs: int = 30
    finetuned: bool = False
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        if (self.cohort is None) == (self.people is None):
            raise UserError(
                "matrix: expected either cohort (a folder) or people (a generator), and got both or neither"
            )
        if not self.sources:
            raise UserError(
                "matrix: sources is empty; expected name: class_path and init_args of one generator or more"
            )
        for name in ("count", "people_count", "steps", "batch_size", "seeds", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"matrix: {name} is {getattr(self, name)}; expected 1 or more")
        if not self.fractions or any(not 0 < share <= 100 for share in self.fractions):
            raise UserError(f"matrix: fractions are {list(self.fractions)}; expected percents above 0, at most 100")

    def run(self, out: Path) -> int:
        """Make, pre-train, judge, write matrix.json, report.html and results.json; returns 0."""
        from finetune.cohort import load_cohort
        from finetune.tasks import find_task
        from pretrain.objectives import find_objectives

        tasks = [find_task(name) for name in self.tasks]
        for name in self.objectives:
            find_objectives(name)
        if self.cohort is not None:
            load_cohort(self.cohort)  # a bad one is refused before anything is made
        out.mkdir(parents=True, exist_ok=True)
        corpora = {name: self._corpus(out / f"{name}.zarr", spec, self.count) for name, spec in self.sources.items()}
        grid = grid_of(next(iter(corpora.values())))
        people = load_cohort(self._people(out, grid))
        left_out = dict(self._left_out(corpora))
        weights = dict(self._pretrained(corpora, left_out, out / "weights"))
        arms = self._arms(weights)
        rows = [row for task in tasks for row in self._judged(people, task, arms, grid, out / "results")]
        self._write(out, rows, left_out, corpora, list(weights.values()))
        print("\n".join(sentences(rows)))
        return 0

    def _corpus(self, path: Path, spec: GeneratorSpec, count: int, more: int = 1) -> Path:
        from benchmarks import corpora
        from synth.engine import Job

        corpora.make(Job(spec, count, self.seed + more, path), self.workers)
        return path

    def _people(self, out: Path, grid: Grid) -> Path:
        """The cohort: as given, brain-extracted onto the sources' grid, or simulated."""
        if self.people is not None:
            return self._corpus(out / "people.zarr", self.people, self.people_count, more=1000)
        assert self.cohort is not None
        if not self.strip:
            return self.cohort
        from synth.scans import Scans

        options = {"folder": self.cohort, "strip": True, "shape": grid[0], "spacing": grid[1]}
        spec = GeneratorSpec("Scans", options)
        return self._corpus(out / "people.zarr", spec, len(Scans(self.cohort)))

    def _cells(self, corpora: Mapping[str, Path]) -> Iterator[Cell]:
        return itertools.product(self.backbones, corpora, self.objectives)

    def _left_out(self, corpora: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
        """Name → why, of every cell whose objective cannot serve its backbone or corpus."""
        from pretrain.backbones import make_backbone
        from pretrain.objectives import make_objective
        from synth.corpus import Corpus

        for cell in self._cells(corpora):
            backbone, source, objective = cell
            corpus = Corpus(corpora[source])
            channels, d, h, w = corpus.image_shape
            made = make_backbone(backbone, (d, h, w), channels, self.seed)
            try:
                make_objective(objective, made, corpus, self.seed)
            except UserError as error:
                yield name_of(cell), str(error)

    def _pretrained(
        self, corpora: Mapping[str, Path], left_out: Mapping[str, str], out: Path
    ) -> Iterator[tuple[Cell, Path]]:
        """Cell → weights."""
        from pretrain.train import TrainOptions, pretrain

        for cell in self._cells(corpora):
            backbone, source, objective = cell
            if name_of(cell) not in left_out:
                options = TrainOptions(backbone, objective, self.steps, self.batch_size, seed=self.seed)
                pretrain(corpora[source], out / name_of(cell), options)
                yield cell, out / name_of(cell)

    def _arms(self, weights: Mapping[Cell, Path]) -> list[Arm]:
        from finetune.protocol import Arm

        arms = []
        for backbone in self.backbones:
            arms += [Arm(f"{backbone}, scratch", "full", None, backbone)]
            arms += [Arm(f"{backbone}, untrained, frozen", "frozen", None, backbone)]
            for (whose, source, objective), folder in weights.items():
                if whose != backbone:
                    continue
                name = f"{backbone}, {source}, {objective}"
                arms.append(Arm(f"{name}, frozen", "frozen", folder, backbone))
                if self.finetuned:
                    arms.append(Arm(f"{name}, fine-tuned", "full", folder, backbone))
        return arms

    def _judged(self, people: Cohort, task: Task, arms: list[Arm], grid: Grid, out: Path) -> Iterator[dict[str, Any]]:
        """One row an arm and fraction of the labels."""
        from finetune.heads import FineTuning
        from finetune.protocol import Protocol, controls, run_experiment
        from synth.progress import progress_bar

        protocol = Protocol(
            self.seeds,
            self.folds,
            test_site=self.test_site,
            grid=grid,
            fine_tuning=FineTuning(epochs=self.epochs),
            fractions=self.fractions,
        )
        with progress_bar(task.name, "arms × seeds") as show:
            everybody = [*arms, *controls(people, task, arms)]
            found = run_experiment(people, task, everybody, protocol, out / task.name, show)
        about = {arm["name"]: arm for arm in found["arms"]}
        for share in found["fractions"]:
            for name, metrics in share["arms"].items():
                told = {key: about[name][key] for key in ("name", "mode", "control", "backbone")}
                yield {
                    "task": task.name,
                    "main_metric": found["main_metric"],
                    "higher_is_better": found["higher_is_better"],
                    "percent": share["percent"],
                    "learnt_from": share["train_people"],
                    **told,
                    "metrics": metrics,
                }

    def _write(
        self,
        out: Path,
        rows: list[dict[str, Any]],
        left_out: Mapping[str, str],
        corpora: Mapping[str, Path],
        weights: list[Path],
    ) -> None:
        from benchmarks.report import Story, write_report
        from synth.storage import write_atomically

        results = {"benchmark": "matrix", "options": self._options(), "left_out": left_out, "rows": rows}
        write_atomically(out / RESULTS, json.dumps(results, indent=1))
        draw(rows, out / PICTURE)
        experiments = [out / "results" / task for task in self.tasks]
        write_report(Story(experiments, list(corpora.values()), weights), out)

    def _options(self) -> dict[str, Any]:
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        told["sources"] = {name: spec.recipe() for name, spec in self.sources.items()}
        told["people"] = None if self.people is None else self.people.recipe()
        told["cohort"] = None if self.cohort is None else self.cohort.name
        return told


def name_of(cell: Cell) -> str:
    """What the folder of a cell's weights is called."""
    return "-".join(cell).replace(":", "_")


def grid_of(path: Path) -> Grid:
    """Voxels and their size in mm of a corpus's volumes; they may differ in nothing else."""
    import numpy as np

    from synth.corpus import Corpus
    from synth.sample import spacing_of

    corpus = Corpus(path)
    _, d, h, w = corpus.image_shape
    return (d, h, w), spacing_of(np.array(corpus.entry(0)["affine"]))


def main_value(row: Mapping[str, Any]) -> dict[str, float]:
    """The main metric on the last test set."""
    found: dict[str, float] = list(row["metrics"].values())[-1][row["main_metric"]]
    return found


def sentences(rows: list[dict[str, Any]]) -> list[str]:
    """Per task and share of the labels: the best start of each backbone, scratch, untrained, the best control."""
    said = []
    for task, share in dict.fromkeys((row["task"], row["percent"]) for row in rows):
        here = [row for row in rows if (row["task"], row["percent"]) == (task, share)]
        said.append(f"{task}, {share} % of the labels:")
        said += [f"  {_told(row):<30} {row['name']}" for row in ranked(here)]
    return said


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best first."""
    return sorted(rows, key=lambda row: main_value(row)["value"] * (-1 if row["higher_is_better"] else 1))


def _told(row: Mapping[str, Any]) -> str:
    value = main_value(row)
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Label efficiency: a panel a task and backbone, a line an arm; controls in grey."""
    from matplotlib.figure import Figure

    from synth.picture import save_png

    backbones = list(dict.fromkeys(row["backbone"] for row in rows if row["backbone"]))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    sheet = Figure(figsize=(4.6 * len(backbones), 3.8 * len(tasks)), layout="constrained")
    panels = sheet.subplots(len(tasks), len(backbones), squeeze=False)
    for task, across in zip(tasks, panels, strict=True):
        for backbone, axis in zip(backbones, across, strict=True):
            shown = [row for row in rows if row["task"] == task and row["backbone"] in (backbone, None)]
            for name in dict.fromkeys(row["name"] for row in shown):
                line = [row for row in shown if row["name"] == name]
                control = line[0]["mode"] == "control"
                axis.plot(
                    [row["percent"] for row in line],
                    [main_value(row)["value"] for row in line],
                    color="0.6" if control else None,
                    linestyle="--" if control else "-",
                    marker="o",
                    markersize=3,
                    label=name.removeprefix(f"{backbone}, ").removesuffix(", frozen"),
                )
            axis.set(
                title=f"{task}, {backbone}", xlabel="percent of the labels", xticks=sorted({r["percent"] for r in rows})
            )
            axis.set_ylabel(shown[0]["main_metric"].replace("_", " "))
            axis.legend(fontsize=6, frameon=False)
    save_png(sheet, path)
