"""What a corpus will cost, before anything runs: a few of its volumes are made in a process of their own and thrown away."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synth.corpus import Corpus
from synth.engine import Job, check_options, first_sample, new_header, prepare, spec_json
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.memory import peak_mb
from synth.pool import Workers
from synth.shards import draw_and_add
from synth.storage import open_storage
from synth.writing import ShardWriter, create

BUDGET_S = 12.0  # of timing
MOST_TIMED = 32
FEWEST_TIMED = 3


@dataclass(frozen=True)
class Timing:
    """What one process measured.

    Attributes:
        volumes: timed, after one that warmed compilers and caches up.
        seconds: a volume, written.
        image, label, record: bytes a volume on disk.
        peak_mb: highest resident memory of a worker, extended to a whole shard.
        shape: [C, D, H, W].
    """

    volumes: int
    seconds: float
    image: float
    label: float
    record: float
    peak_mb: float
    shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class Plan:
    """What a run will take. Sizes in bytes, times in hours."""

    count: int
    left: int
    shards: int
    shard_size: int
    timing: Timing
    workers: int
    gpus: float

    @property
    def disk(self) -> float:
        """Bytes of the whole corpus."""
        timing = self.timing
        return self.count * (timing.image + timing.label + timing.record)

    @property
    def core_hours(self) -> float:
        """Of what is left to make."""
        return self.left * self.timing.seconds / 3600

    def __str__(self) -> str:
        timing = self.timing
        made = f", {self.count - self.left:,} of them made already" if self.left < self.count else ""
        parts = f"image {timing.image / 1e3:,.1f}, label {timing.label / 1e3:,.1f}, record {timing.record / 1e3:,.1f}"
        return "\n".join(
            [
                f"volumes   {self.count:,} of {list(timing.shape)} in {self.shards:,} shards of {self.shard_size}{made}",
                f"disk      {size(self.disk)} ({self.disk / self.count / 1e3:,.1f} kB a volume: {parts})",
                f"memory    {timing.peak_mb / 1e3:.2f} GB a worker",
                f"time      {hours(self.core_hours)} of one core ({1000 * timing.seconds:,.0f} ms a volume, "
                f"{timing.volumes} timed); about {hours(self.core_hours / max(self.workers, 1))} with {max(self.workers, 1)} "
                "worker(s) that have a core each",
                f"GPU       {self.core_hours * self.gpus:.2f} GPU-hours",
            ]
        )


def size(count: float) -> str:
    """Bytes in words."""
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= step:
            return f"{count / step:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def hours(count: float) -> str:
    """Hours in words."""
    if count >= 1:
        return f"{count:,.1f} h"
    return f"{count * 60:.1f} min" if count * 60 >= 1 else f"{count * 3600:.1f} s"


def plan(job: Job, team: Workers) -> Plan:
    """Time a few volumes of a job; nothing is written where the corpus will be.

    Raises:
        UserError: bad options, a generator that fails, or an output that holds another recipe.
    """
    check_options(job)
    left = job.count
    storage = open_storage(job.out)
    if Path(str(job.out)).exists() if storage.is_local else storage.exists("zarr.json"):
        prepare(job)  # refuses another recipe
        corpus = Corpus(job.out)
        held = len(corpus) - sum(len(corpus.header.indices(shard)) for shard in corpus.missing())
        left = job.count - held
    timing = _timed(job, not team.in_process)
    return Plan(job.count, left, -(-job.count // job.shard_size), job.shard_size, timing, team.count or 0, team.gpus)


def _timed(job: Job, with_ray: bool) -> Timing:
    with tempfile.TemporaryDirectory(prefix="brainloom-plan-") as folder:
        asked, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        fields = {name: value for name, value in asdict(job).items() if name not in ("spec", "out")}
        asked.write_text(json.dumps({"spec": json.loads(spec_json(job.spec)), "ray": with_ray, **fields}))
        ended = subprocess.run([sys.executable, "-m", "synth.plan", folder], capture_output=True, text=True)
        if not answer.is_file():
            said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"a few volumes could not be made to time them: {said}")
        found = json.loads(answer.read_text())
    if "error" in found:
        raise UserError(found["error"])
    c, d, h, w = found.pop("shape")
    return Timing(**found, shape=(c, d, h, w))


def measure(folder: Path) -> dict[str, Any]:
    """What :class:`Timing` holds, of the job described in ``folder``; runs in a process of its own."""
    asked = json.loads((folder / "job.json").read_text())
    given, with_ray = asked.pop("spec"), asked.pop("ray")
    if with_ray:
        import ray  # noqa: F401  (a worker's memory holds it too)
    spec = GeneratorSpec(given["class_path"], given["init_args"], tuple(given["search_path"]))
    job = Job(spec, out=folder / "timed.zarr", **asked)
    generator = spec.build()
    example = first_sample(generator, job)
    header = new_header(job, generator, [], "", example)
    create(job.out, header, example)
    del example
    writer = ShardWriter(open_storage(job.out), header, 0)
    places = np.linspace(0, job.count - 1, min(job.count, MOST_TIMED)).astype(int)
    started, done, failed = time.perf_counter(), 0, []
    for number, index in enumerate(places.tolist()[: job.shard_size]):
        failed += list(draw_and_add(writer, generator, header, [index], number))
        done += 1
        if done >= FEWEST_TIMED and time.perf_counter() - started > BUDGET_S:
            break
    if len(failed) == done:
        return {"error": f"all of {done} volumes failed: {failed[0]['error']}"}
    record = writer.commit(header.versions)
    seconds = (time.perf_counter() - started) / done
    made = len(writer.entries)
    files = {name: file["bytes"] / made for name, file in record["files"].items()}
    import pandas  # noqa: F401  # finishing a corpus takes it up, with pyarrow where that is installed

    grown = max(0, min(job.shard_size, job.count) - made) * sum(files.values()) / 1e6
    return {
        "volumes": done,
        "seconds": seconds,
        "image": files["image"],
        "label": files.get("label", 0.0),
        "record": len(json.dumps(record["samples"])) / made + 600 / job.shard_size,
        "peak_mb": round(peak_mb() + grown, 1),
        "shape": header.image_shape,
    }


if __name__ == "__main__":
    where = Path(sys.argv[1])
    try:
        outcome = measure(where)
    except UserError as error:
        outcome = {"error": str(error)}
    (where / "answer.json").write_text(json.dumps(outcome))
