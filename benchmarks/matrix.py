"""kind: matrix — sources of volumes × objectives × backbones, each pre-trained at equal compute and judged by one protocol.

Equal compute: every source gives as many volumes, every pre-training takes as many steps of as many volumes, every frozen
backbone is read by the same linear model with the same search. Scratch, the untrained backbone and the controls stand
beside them. Whatever is there already is kept, so a stopped run goes on.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.matrix_figures import draw, ranking, ranking_sentences, reliability, sentences
from finetune.arms import MODES
from synth.errors import UserError
from synth.generator import GeneratorSpec

if TYPE_CHECKING:
    from benchmarks.matrix_judging import Asked
    from finetune.tasks import Task
    from synth.nifti import Grid

Cell = tuple[str, str, str]  # backbone, source, objective
RESULTS, PICTURE = "matrix.json", "label_efficiency.png"


@dataclass(frozen=True)
class Matrix:
    """Which starts, on whom, how.

    Attributes:
        sources: name → generator of the volumes to pre-train on; the first one's shape and spacing are the cohort's grid.
        count: volumes of each source; of real scans as many as there are.
        inits: name → backbone → where it begins without pre-training here (``pretrain run --init``), such as a network of
            images.
        pretrained_from: names of ``inits`` from which every pre-training begins as well, beside those from nothing: video,
            then synthetic volumes. Such a source is called "SOURCE after NAME".
        cohort: BIDS folder or corpus of people; ``people`` where it is absent.
        cohorts: task → its own cohort, instead.
        externals: task → cohort that is only tested on.
        columns: task → column map of its cohort, as ``finetune run --columns`` takes it.
        external_columns: task → column map of the cohort that is only tested on.
        people: generator of a simulated cohort.
        people_count: how many.
        tasks: of ``finetune run``.
        backbones: of ``pretrain backbones``.
        objectives: of ``pretrain run``; a backbone that one cannot serve goes without, which the results say.
        steps, batch_size: of every pre-training.
        pretrain_seeds: pre-trainings of each cell, with as many seeds; those of the protocol take them in turn.
        strip: whether the cohort's scans are brain-extracted first (needs deepbet).
        align: whether they are then brought to the template by an affine map, as ``synth import --align``.
        n4: whether their bias field is taken out.
        fractions: percent of the people to learn from.
        seeds: repetitions, each with its own folds, labelled people and initialisation.
        folds: of the cross-validation by person.
        test_site: people of this site are only tested, instead of cross-validation.
        epochs: of fine-tuning everything from scratch.
        learning_rates: of which one is chosen on validation people wherever everything is trained.
        layer_decay: of the learning rate from layer to layer where a start is fine-tuned.
        modes: of ``finetune run``, in which every start is judged.
        beside: whether scratch, the untrained backbone and the controls stand beside; a ranking of sources needs none.
        seed: of volumes, people and pre-training.
        workers: Ray workers that make volumes and judge arms; 0 for none.
    """

    sources: Mapping[str, GeneratorSpec]
    count: int = 1000
    inits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pretrained_from: tuple[str, ...] = ()
    cohort: Path | None = None
    cohorts: Mapping[str, Path] = field(default_factory=dict)
    externals: Mapping[str, Path] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    external_columns: Mapping[str, str] = field(default_factory=dict)
    people: GeneratorSpec | None = None
    people_count: int = 480
    tasks: tuple[str, ...] = ("age",)
    backbones: tuple[str, ...] = ("sfcn_s", "vit_xs")
    objectives: tuple[str, ...] = ("supervised", "mae", "masked", "simclr", "yaware", "segment", "contrasts")
    steps: int = 1000
    pretrain_seeds: int = 1
    batch_size: int = 16
    strip: bool = False
    align: bool = False
    n4: bool = False
    fractions: tuple[float, ...] = (25.0, 50.0, 100.0)
    seeds: int = 5
    folds: int = 5
    test_site: str | None = None
    epochs: int = 30
    learning_rates: tuple[float, ...] = (3e-4, 1e-3)
    layer_decay: float = 0.75
    modes: tuple[str, ...] = ("frozen",)
    beside: bool = True
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        lacking = [task for task in self.tasks if task not in self.cohorts] if self.cohort is None else []
        if bool(lacking) != (self.people is not None):
            wanted = f"people for {', '.join(lacking)}" if lacking else "no simulated people beside real ones"
            raise UserError(
                f"matrix: expected {wanted}: give --cohort FOLDER, --cohort TASK=FOLDER…, or people (a generator)"
            )
        for option in ("cohorts", "externals", "columns", "external_columns"):
            for task in set(getattr(self, option)) - set(self.tasks):
                raise UserError(f"matrix: {option} names task '{task}'; expected one of {', '.join(self.tasks)}")
        for word in {word for one in self.inits.values() for word in one} - set(self.backbones):
            raise UserError(f"matrix: inits names backbone '{word}'; expected one of {', '.join(self.backbones)}")
        for name in set(self.pretrained_from) - set(self.inits):
            known = ", ".join(self.inits) or "none; name one under inits first"
            raise UserError(f"matrix: pretrained_from names '{name}'; expected some of inits: {known}")
        if not self.sources:
            raise UserError(
                "matrix: sources is empty; expected name: class_path and init_args of one generator or more"
            )
        for name in ("count", "people_count", "steps", "pretrain_seeds", "batch_size", "seeds", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"matrix: {name} is {getattr(self, name)}; expected 1 or more")
        if self.pretrain_seeds > self.seeds:
            raise UserError(
                f"matrix: pretrain_seeds is {self.pretrain_seeds} with seeds {self.seeds}; expected at most as many, "
                "for each seed of the protocol takes one pre-training"
            )
        if (self.align or self.n4) and not self.strip:
            raise UserError("matrix: align and n4 need the brain alone; expected strip: true beside them")
        for mode in set(self.modes) - set(MODES):
            raise UserError(f"matrix: modes holds '{mode}'; expected some of {', '.join(MODES)}")
        if not self.fractions or any(not 0 < share <= 100 for share in self.fractions):
            raise UserError(f"matrix: fractions are {list(self.fractions)}; expected percents above 0, at most 100")

    def run(self, out: Path) -> int:
        """Make, pre-train, judge, write matrix.json, report.html and results.json; returns 0."""
        from benchmarks.matrix_judging import check_starts, servable
        from finetune.tasks import find_task
        from pretrain.objectives import find_objectives

        tasks = [find_task(name) for name in self.tasks]
        for name in self.objectives:
            find_objectives(name)
        asked = {} if self.people is not None else {name: self._asked(name) for name in self.tasks}
        left_out = servable(tasks, asked) if asked else {}
        tasks = [task for task in tasks if task.name not in left_out]
        shape = next(iter(self.sources.values())).init_args.get("shape", (96, 96, 96))
        check_starts(self.inits, shape)
        out.mkdir(parents=True, exist_ok=True)
        corpora = {name: self._corpus(out / f"{name}.zarr", spec, self.count) for name, spec in self.sources.items()}
        grid = grid_of(next(iter(corpora.values())))
        left_out |= dict(self._left_out(corpora))
        weights = dict(self._pretrained(corpora, left_out, out / "weights"))
        rows = [row for task in tasks for row in self._judged(task, asked.get(task.name), weights, grid, out)]
        self._write(out, rows, left_out, corpora, [folder for folders in weights.values() for folder in folders])
        print("\n".join([*ranking_sentences(rows), *sentences(rows)]))
        return 0

    def _asked(self, task: str) -> Asked:
        from benchmarks.matrix_judging import Asked

        external, folder = self.externals.get(task), self.cohorts.get(task, self.cohort)
        assert folder is not None
        return Asked(
            folder,
            self.columns.get(task, ""),
            None if external is None else (external, self.external_columns.get(task, "")),
        )

    def _judged(
        self, task: Task, asked: Asked | None, weights: Mapping[Cell, list[Path]], grid: Grid, out: Path
    ) -> Iterator[dict[str, Any]]:
        """One row an arm and fraction of the labels."""
        from benchmarks.matrix_judging import Asked, arms_of, corpus_name, judged
        from finetune.heads import FineTuning
        from finetune.protocol import Protocol

        def stripped(folder: Path) -> Path:
            how = {"strip": True, "align": self.align, "n4": self.n4}
            options = {"folder": folder, "shape": grid[0], "spacing": grid[1], **how}
            return self._corpus(out / corpus_name(folder), GeneratorSpec("Scans", options), 1)

        if asked is None:
            assert self.people is not None
            asked = Asked(self._corpus(out / "people.zarr", self.people, self.people_count, more=1000))
        elif self.strip:
            asked = asked.placed(stripped)
        arms = []
        for backbone in self.backbones:
            own = {
                f"{source}, {objective}": folders
                for (word, source, objective), folders in weights.items()
                if word == backbone
            }
            arms += arms_of(backbone, self.inits, own, self.modes, self.beside)
        rates = self.learning_rates
        tuning = FineTuning(epochs=self.epochs, learning_rate=rates[0], rates=rates, layer_decay=self.layer_decay)
        protocol = Protocol(
            self.seeds,
            self.folds,
            test_site=self.test_site,
            grid=grid,
            fine_tuning=tuning,
            fractions=self.fractions,
        )
        cells = {name_of(cell): cell for cell in weights}
        for row in judged(asked, task, arms, protocol, out / "results" / task.name, self.workers, self.beside):
            _, source, objective = cells.get(row["weights"], (None, None, None))
            yield {**row, "source": source, "objective": objective}

    def _corpus(self, path: Path, spec: GeneratorSpec, count: int, more: int = 1) -> Path:
        from benchmarks import corpora
        from synth.engine import Job
        from synth.scans import Scans

        made = spec.build() if spec.class_path == "Scans" else None
        count = len(made) if isinstance(made, Scans) else count
        corpora.make(Job(spec, count, self.seed + more, path), self.workers)
        return path

    def _cells(self, corpora: Mapping[str, Path]) -> Iterator[tuple[Cell, Path, str]]:
        """Every cell with its corpus and what it begins from; one from a start that a backbone lacks is none."""
        for backbone, source, objective in itertools.product(self.backbones, corpora, self.objectives):
            yield (backbone, source, objective), corpora[source], "scratch"
            for name in self.pretrained_from:
                if backbone in self.inits[name]:
                    yield (backbone, f"{source} after {name}", objective), corpora[source], self.inits[name][backbone]

    def _left_out(self, corpora: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
        """Name → why, of every cell whose objective cannot serve its backbone or corpus."""
        from pretrain.backbones import make_backbone
        from pretrain.objectives import make_objective
        from synth.corpus import Corpus

        for cell, path, _ in self._cells(corpora):
            backbone, _, objective = cell
            corpus = Corpus(path)
            channels, d, h, w = corpus.image_shape
            made = make_backbone(backbone, (d, h, w), channels, self.seed)
            try:
                make_objective(objective, made, corpus, self.seed)
            except UserError as error:
                yield name_of(cell), str(error)

    def _pretrained(
        self, corpora: Mapping[str, Path], left_out: Mapping[str, str], out: Path
    ) -> Iterator[tuple[Cell, list[Path]]]:
        """Cell → weights, a folder for each seed of pre-training."""
        from pretrain.train import TrainOptions, pretrain

        for cell, corpus, init in self._cells(corpora):
            backbone, _, objective = cell
            if name_of(cell) in left_out:
                continue
            folders = []
            for number in range(self.pretrain_seeds):
                seed = self.seed + number
                options = TrainOptions(backbone, objective, self.steps, self.batch_size, seed=seed, init=init)
                folders.append(out / (name_of(cell) + (f"-seed{number}" if number else "")))
                pretrain(corpus, folders[-1], options)
            yield cell, folders

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

        results = {
            "benchmark": "matrix",
            "options": self.options(),
            "left_out": left_out,
            "ranking": ranking(rows),
            "reliability": reliability(rows),
            "rows": rows,
        }
        write_atomically(out / RESULTS, json.dumps(results, indent=1))
        draw(rows, out / PICTURE)
        experiments = [out / "results" / task for task in dict.fromkeys(row["task"] for row in rows)]
        said = ranking_sentences(rows) + [f"Left out: {name}: {why}" for name, why in left_out.items()]
        write_report(Story(experiments, list(corpora.values()), weights, said=said), out)

    def options(self) -> dict[str, Any]:
        """For JSON."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        told["sources"] = {name: spec.recipe() for name, spec in self.sources.items()}
        told["people"] = None if self.people is None else self.people.recipe()
        told["cohort"] = None if self.cohort is None else self.cohort.name
        for name in ("cohorts", "externals"):
            told[name] = {task: folder.name for task, folder in getattr(self, name).items()}
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
