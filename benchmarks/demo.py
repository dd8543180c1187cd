"""The whole line on the built-in anatomy: generate → pre-train → fine-tune → report, on a CPU, in minutes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

GRID = {"shape": (40, 48, 40), "spacing": 4.0}
COHORT_SEED = 4242


@dataclass(frozen=True)
class Size:
    """How large a demo is: volumes, people, steps of each pre-training, seeds, labelled people, epochs from scratch."""

    volumes: int
    people: int
    steps: dict[tuple[str, str], int]
    seeds: int
    labels: int
    epochs: int


SIZES = {
    "full": Size(
        volumes=1024,
        people=480,
        steps={("sfcn_s", "supervised"): 650, ("vit_xs", "supervised"): 450, ("vit_xs", "mae"): 400},
        seeds=3,
        labels=40,
        epochs=15,
    ),
    "tiny": Size(
        volumes=24,
        people=48,
        steps={("sfcn_s", "supervised"): 8, ("vit_xs", "supervised"): 8, ("vit_xs", "mae"): 8},
        seeds=1,
        labels=12,
        epochs=1,
    ),
}


def demo(
    out: Path = Path("brainloom-demo"),
    size: Literal["full", "tiny"] = "full",
    workers: int = 2,
) -> int:
    """Run the whole line on the built-in anatomy; what is there already is not made again.

    Args:
        out: folder for corpus, cohort, weights, results and report.html.
        size: full (about ten minutes on 2 cores) or tiny (a check that everything runs, its figures mean nothing).
        workers: Ray workers of the generator; 0 works without Ray.
    """
    from finetune.cli import table

    chosen, finished = SIZES[size], out / "finished.json"
    if finished.is_file() and json.loads(finished.read_text()) == repr(chosen) and (out / "report.html").is_file():
        for path in sorted((out / "results").glob("*/results.json")):
            print(table(json.loads(path.read_text())))
        print(f"nothing to do, all of it is there; report: {(out / 'report.html').resolve()}")
        return 0
    from benchmarks.report import Story, write_report
    from synth.storage import write_atomically

    clock = Clock(out / "timings.json")
    corpora = _corpora(out, chosen, workers, clock)
    weights = _pretrain(out, chosen, clock)
    results = _finetune(out, chosen, weights, clock)
    for one in results.values():
        print(table(one))
    story = Story([out / "results" / task for task in results], corpora, weights, clock.seconds)
    path = write_report(story, out)
    write_atomically(finished, json.dumps(repr(chosen)))
    print(f"report: {path.resolve()}")
    return 0


class Clock:
    """Seconds per stage; a stage found finished keeps the seconds of the run that made it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def time(self, stage: str, work: Callable[[], bool]) -> None:
        """Run ``work``, which says whether it made anything; if so its seconds are kept."""
        from synth.storage import write_atomically

        started = time.perf_counter()
        if work() or stage not in self.seconds:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(self.seconds, indent=1))


def _corpora(out: Path, size: Size, workers: int, clock: Clock) -> list[Path]:
    """The training corpus, and a cohort with other people, other anatomy variation and two scanners of its own."""
    from synth.engine import Job
    from synth.generator import GeneratorSpec
    from synth.pool import Workers, ray_session

    corpus = GeneratorSpec("LabelMap", GRID)
    cohort = GeneratorSpec(
        "LabelMap",
        {
            **GRID,
            "ages": (50.0, 88.0),
            "diagnosis_weights": (0.42, 0.08, 0.25, 0.25),
            "sites": ("north", "south"),
            "warp_mm": 2.0,
            "warp_length_mm": 18.0,
        },
    )
    jobs = [
        Job(corpus, size.volumes, 1, out / "corpus.zarr"),
        Job(cohort, size.people, COHORT_SEED, out / "cohort.zarr"),
    ]
    if workers and not all(_made(job) for job in jobs):
        with ray_session(Workers(workers)):
            return _corpora_of(jobs, workers, clock)
    return _corpora_of(jobs, workers, clock)


def _made(job: Any) -> bool:
    from synth.corpus import Corpus

    return job.out.exists() and Corpus(job.out).complete


def _corpora_of(jobs: list[Any], workers: int, clock: Clock) -> list[Path]:
    from benchmarks import corpora

    for job in jobs:

        def make(job: Any = job) -> bool:
            return bool(corpora.make(job, workers).made)

        clock.time(f"generate {job.out.stem}", make)
    return [job.out for job in jobs]


def _pretrain(out: Path, size: Size, clock: Clock) -> list[Path]:
    from pretrain.train import TrainOptions, pretrain

    folders = []
    for (backbone, objective), steps in size.steps.items():
        folder = out / "weights" / f"{backbone}-{objective}"
        options = TrainOptions(backbone, objective, steps, batch_size=16)

        def train(folder: Path = folder, options: TrainOptions = options) -> bool:
            before = (folder / "config.json").exists()
            pretrain(out / "corpus.zarr", folder, options)
            return not before

        clock.time(f"pretrain {folder.name}", train)
        folders.append(folder)
    return folders


def _finetune(out: Path, size: Size, weights: list[Path], clock: Clock) -> dict[str, dict[str, Any]]:
    from finetune.cohort import load_cohort
    from finetune.heads import FineTuning
    from finetune.protocol import Arm, Protocol, controls, run_experiment
    from finetune.tasks import TASKS
    from synth.progress import progress_bar

    cohort = load_cohort(out / "cohort.zarr")
    tuning = FineTuning(epochs=size.epochs)
    protocol = Protocol(size.seeds, labels=size.labels, test_site="south", fine_tuning=tuning)
    arms = []
    for backbone in ("sfcn_s", "vit_xs"):
        arms += [
            Arm(f"{backbone}, scratch", "full", None, backbone),
            Arm(f"{backbone}, untrained, frozen", "frozen", None, backbone),
        ]
        arms += [
            Arm(f"{folder.name.replace('-', ', ')}, frozen", "frozen", folder, backbone)
            for folder in weights
            if folder.name.startswith(backbone)
        ]
    results = {}
    for name, task in TASKS.items():
        folder = out / "results" / name

        def run(name: str = name, task: Any = task, folder: Path = folder) -> bool:
            before = (folder / "results.json").exists()
            if before:
                results[name] = json.loads((folder / "results.json").read_text())
                return False
            with progress_bar(f"finetune {name}", "arms × seeds") as show:
                results[name] = run_experiment(
                    cohort, task, [*arms, *controls(cohort, task, arms)], protocol, folder, show
                )
            return True

        clock.time(f"finetune {name}", run)
    return results
