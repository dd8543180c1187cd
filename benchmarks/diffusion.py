"""kind: diffusion — train on label-map volumes, sample, and say how near held-out volumes the samples come.

The question of each comparison, all against volumes of the same source that the model never saw:

Every set asks for people as the training corpus has them (people.tsv), so that sets and held-out volumes differ by the model
alone.

- Is it more than its autoencoder? Samples against the decodes of random latents (the plain prior: each latent cell normal
  with the training corpus's mean and the common SD).
- Does a rectified flow need fewer steps? Its few against DDIM's many, over several seeds.
- Does it listen? Ventricular volume asked for against measured; ventricular volume per year, also where only age was told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks import corpora
from synth.corpus import Corpus
from synth.diffusion.generator import Diffusion as Generator
from synth.diffusion.settings import Autoencoding, Denoising, TrainOptions
from synth.engine import Job
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from synth.audit.grid import Volumes

RESULTS, PICTURE, PEOPLE = "results.json", "samples.png", "people.tsv"
FLOW, DDIM = "rectified_flow", "v_prediction"
PICTURED = 6
AGE_ONLY = ("age only, flow", "age only, ddim")


class Prior(Generator):
    """Decodes of random latents: what the autoencoder alone makes."""

    def latent(self, noise: Tensor, told: Tensor, label: Tensor | None) -> Tensor:
        """The noise itself: normal, with the mean and the SD of the training corpus once it is scaled back."""
        return noise


@dataclass(frozen=True)
class DiffusionBenchmark:
    """Both kinds of training on one corpus.

    Attributes:
        generator: of the training and the held-out volumes.
        count, held_out: volumes to learn from, and never to be seen.
        samples: volumes of every set that is compared.
        seeds: sets of each kind.
        conditions: what the models are told; ventricular_volume among them.
        autoencoder_steps, diffusion_steps: of the recipe tiny, whose sizes are taken.
        shift: of the rectified flow's training times.
        flow_steps, ddim_steps: steps of the two samplers.
        segmenter_steps: training steps of the audit's segmenter, which measures ventricles.
        precision: in which samples are made, as of the generator Diffusion.
        seed: of everything.
        workers: Ray workers that make volumes; 0 for none.
    """

    generator: GeneratorSpec
    count: int = 1000
    held_out: int = 300
    samples: int = 100
    seeds: int = 3
    conditions: tuple[str, ...] = ("age", "sex", "diagnosis", "ventricular_volume", "brain_volume")
    autoencoder_steps: int = 800
    diffusion_steps: int = 6000
    shift: float = 3.0
    flow_steps: int = 10
    ddim_steps: int = 50
    segmenter_steps: int = 500
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    workers: int = 2

    def run(self, out: Path) -> int:
        """Make, train, sample, measure; a stopped run goes on. Returns 0."""
        from synth.storage import write_atomically

        if "ventricular_volume" not in self.conditions or "age" not in self.conditions:
            raise UserError("conditions lack age or ventricular_volume, by which the benchmark asks whether it listens")
        out.mkdir(parents=True, exist_ok=True)
        train = self._corpus(out / "train.zarr", self.generator, self.count, self.seed + 1)
        apart = self._corpus(out / "held_out.zarr", self.generator, self.held_out, self.seed + 2)
        seconds = {name: self._train(train, out / name, name) for name in (FLOW, DDIM)}
        sets = dict(self._sets(out))
        results = {"options": self._options(), "seconds": seconds, **measured(train, apart, sets, self.segmenter_steps)}
        write_atomically(out / RESULTS, json.dumps(results, indent=1))
        draw(sets, out / PICTURE)
        print("\n".join(sentences(results)))
        return 0

    def _options(self) -> dict[str, Any]:
        return {**self.__dict__, "generator": self.generator.recipe(), "conditions": list(self.conditions)}

    def _corpus(self, path: Path, spec: GeneratorSpec, count: int, seed: int) -> Path:
        corpora.make(Job(spec, count, seed, path), self.workers)
        return path

    def _train(self, corpus: Path, out: Path, prediction: Any) -> float | None:
        """Train, or go on; returns the seconds of a training that was never stopped."""
        import time

        from synth.diffusion.train import train_diffusion

        whole, started = not out.exists(), time.perf_counter()
        train_diffusion(
            corpus,
            out,
            TrainOptions(
                self.conditions,
                autoencoder=Autoencoding(steps=self.autoencoder_steps),
                diffusion=Denoising(steps=self.diffusion_steps, prediction=prediction, shift=self.shift),
                seed=self.seed,
            ),
        )
        return round(time.perf_counter() - started, 1) if whole else None

    def _sets(self, out: Path) -> Iterator[tuple[str, Path]]:
        """Name → corpus of every set of samples."""
        people = out / PEOPLE
        write_people(Corpus(out / "train.zarr"), self.conditions, people)
        same: dict[str, Any] = {"people": people, "precision": self.precision}
        flow: dict[str, Any] = {"weights": out / FLOW, "steps": self.flow_steps, **same}
        ddim: dict[str, Any] = {"weights": out / DDIM, "steps": self.ddim_steps, **same}
        others = tuple(name for name in self.conditions if name != "age")
        asked = {
            **{f"flow {n}": ("Diffusion", flow, n) for n in range(self.seeds)},
            **{f"ddim {n}": ("Diffusion", ddim, n) for n in range(self.seeds)},
            "age only, flow": ("Diffusion", {**flow, "untold": others}, 0),
            "age only, ddim": ("Diffusion", {**ddim, "untold": others}, 0),
            "prior": ("benchmarks.diffusion.Prior", flow, 0),
        }
        for name, (cls, arguments, n) in asked.items():
            spec = GeneratorSpec(cls, arguments)
            yield (
                name,
                self._corpus(
                    out / f"{name.replace(', ', ' ').replace(' ', '_')}.zarr", spec, self.samples, self.seed + 10 + n
                ),
            )


def write_people(corpus: Corpus, names: Sequence[str], path: Path) -> None:
    """The corpus's people, one row each, as a model that learnt from it is told them: numbers cut at its ranges."""
    from synth.diffusion.conditions import learn
    from synth.diffusion.people import told_of
    from synth.storage import write_atomically

    conditions = learn(corpus, names)
    rows = [told_of(entry["covariates"], conditions) for entry in corpus.entries()]
    header = "\t".join(["participant_id", *(condition.name for condition in conditions)])
    lines = ["\t".join([f"sub-{number}", *map(str, row.values())]) for number, row in enumerate(rows)]
    write_atomically(path, "\n".join([header, *lines]) + "\n")


@contextmanager
def _bar(title: str) -> Iterator[Any]:
    with progress_bar(title) as show:
        yield show


def measured(train: Path, apart: Path, sets: dict[str, Path], segmenter_steps: int) -> dict[str, Any]:
    """Distances of every set to the held-out volumes in the audit's features, and whether the model listens."""
    from synth.audit import features
    from synth.audit.distances import kid
    from synth.audit.grid import Volumes
    from synth.audit.listening import always_there, asked_of, per_year
    from synth.audit.measuring import measure, method_for

    real, held = Volumes(Corpus(train), "reference"), Volumes(Corpus(apart), "held-out")
    made = {name: Volumes(Corpus(path), "synthetic") for name, path in sets.items()}
    described = [_described(one, features) for one in (real, held, *made.values())]
    _, of_held, *of_made = (vectors[:, 0] for vectors in features.standardised_by(*described))
    mmd = {name: kid(vectors, of_held, 0).as_json() for name, vectors in zip(made, of_made, strict=True)}
    method = method_for(real, held, segmenter_steps, 0, _bar)
    volumes = {name: measure(made[name], method, lambda *_: None) for name in ("flow 0", "ddim 0", *AGE_ONLY)}
    expected = always_there(real)
    asked = {name: asked_of(made[name], volumes[name], expected).get("ventricles") for name in ("flow 0", "ddim 0")}
    listening = {name: None if found is None else found.as_json(0) for name, found in asked.items()}
    ageing = {
        "held-out": per_year(held, measure(held, method, lambda *_: None), "ventricles", 0),
        **{name: per_year(made[name], volumes[name], "ventricles", 0) for name in volumes},
    }
    return {
        "mmd": mmd,
        "ventricles": listening,
        "ventricles_mm3_per_year": {name: None if value is None else value.as_json() for name, value in ageing.items()},
        "measured_by": method.as_json(),
    }


def _described(volumes: Volumes, features: Any) -> Any:
    with progress_bar(f"features of {volumes.role} volumes") as show:
        return features.describe_all(volumes, show)


def _of(results: dict[str, Any], kind: str) -> list[float]:
    return [value["value"] for name, value in results["mmd"].items() if name.startswith(kind)]


def sentences(results: dict[str, Any]) -> list[str]:
    """What came out, in words."""
    flow, ddim, prior = _of(results, "flow"), _of(results, "ddim"), _of(results, "prior")[0]
    steps = results["options"]
    said = [
        f"MMD (KID) to held-out volumes: rectified flow, {steps['flow_steps']} steps {_told(flow)}; DDIM, "
        f"{steps['ddim_steps']} steps {_told(ddim)}; decodes of random latents {prior:.4g}.",
    ]
    for name, found in results["ventricles"].items():
        if found is None:
            said.append(f"Ventricular volume, {name}: the segmenter could not measure it.")
            continue
        r = found["r"]
        said.append(
            f"Ventricular volume asked and measured, {name}: r {r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}], "
            f"slope {found['slope']['value']:.2f}."
        )
    for name, found in results["ventricles_mm3_per_year"].items():
        if found is not None:
            said.append(
                f"Ventricles a year, {name}: {found['value']:.0f} [{found['low']:.0f}, {found['high']:.0f}] mm³."
            )
    return said


def _told(values: list[float]) -> str:
    return f"{np.mean(values):.4g} ({', '.join(f'{value:.4g}' for value in values)})"


def draw(sets: dict[str, Path], path: Path) -> None:
    """A few samples of the flow, of DDIM and of the prior, a row each."""
    from matplotlib.figure import Figure

    from synth.picture import save_png, slices

    rows = {"rectified flow": "flow 0", "DDIM": "ddim 0", "random latents": "prior"}
    sheet = Figure(figsize=(1.9 * PICTURED, 2.3 * len(rows)), facecolor="black")
    for (title, name), axes in zip(rows.items(), sheet.subplots(len(rows), PICTURED, squeeze=False), strict=True):
        corpus = Corpus(sets[name])
        for number, axis in enumerate(axes):
            cut = slices(corpus.image(min(number // 2, len(corpus) - 1))[0].astype(np.float32))[number % 2]
            axis.imshow(cut, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.axis("off")
        axes[0].set_title(title, color="white", fontsize=8, loc="left")
    sheet.tight_layout(pad=0.3)
    save_png(sheet, path)
