"""Are volumes what was asked for, and do groups differ by what the effects table says?

Both are measured on written label maps. The people are simulated: this checks the generator, and says nothing of patients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.chunks import resumed_rows, same_options
from synth.anatomy.labels import label_table
from synth.anatomy.people import DIAGNOSES, SEVERITY_SD, STAGE_MIX, Person, effects
from synth.keys import new_seed, rng_for
from synth.labelmap import LabelMap, wanted_changes
from synth.storage import write_atomically

CLOSE = {  # largest error of a volume that counts as realised
    **dict.fromkeys(("hippocampus", "amygdala", "putamen", "thalamus"), 0.05),
    **dict.fromkeys(("lateral_ventricle", "inferior_lateral_ventricle", "third_ventricle"), 0.10),
}
NEAR_D = 0.1
AGES = (60.0, 85.0)
COARSE_MM = 2.0  # group comparisons


@dataclass(frozen=True)
class Check:
    """What is measured: how many draws at which spacing, how many people a group, on which label maps."""

    draws: int
    people: int
    spacing: float
    seed: int
    anatomies: str | None

    def generator(self, spacing: float, **options: Any) -> LabelMap:
        """The default generator on a grid that holds the head, mirrored heads included."""
        shape = tuple(math.ceil(mm / spacing) for mm in (184, 224, 188))
        folder = Path(self.anatomies) if self.anatomies else None
        return LabelMap(shape=shape, spacing=spacing, anatomies=folder, neck=(0.0, 0.0, 0.0), **options)  # type: ignore[arg-type]


def run(check: Check, out: Path, workers: int, show: Callable[[int, int], None]) -> dict[str, Any]:
    """Measure (or go on), write draws.tsv, people.tsv, results.json and two pictures into ``out``; the results."""
    from benchmarks import morphometry_figures

    out.mkdir(parents=True, exist_ok=True)
    same_options(asdict(check), out)
    total = check.draws + check.people * len(DIAGNOSES)
    draws = resumed_rows(out / "draws.tsv", check.draws, partial(draw_rows, check), workers, lambda n: show(n, total))
    people = resumed_rows(
        out / "people.tsv",
        check.people,
        partial(group_rows, check),
        workers,
        lambda n: show(check.draws + n * len(DIAGNOSES), total),
    )
    results: dict[str, Any] = {
        "check": asdict(check),
        "volumes": volume_table(draws).to_dict("index"),
        "smallest_jacobian": float(draws["smallest_jacobian"].min()),
        "effects": effect_table(people).to_dict("records") if len(people) else [],
    }
    morphometry_figures.asked_and_realised(draws, out / "asked_realised.png")
    if len(people):
        morphometry_figures.effect_sizes(effect_table(people), out / "effects.png")
    write_atomically(out / "results.json", json.dumps(results, indent=1))
    return results


@lru_cache(maxsize=4)
def _generator(check: Check, spacing: float, groups: bool) -> LabelMap:
    options: dict[str, Any] = {"ages": AGES, "diagnoses": ("CN",), "flip": False} if groups else {}
    return check.generator(spacing, **options)


def structure_volumes(covariates: dict[str, Any]) -> dict[str, float]:
    """Structure → mm³, both sides together, from a sample's covariates."""
    volumes: dict[str, float] = {}
    for label in label_table().values():
        if label.covariate in covariates:
            volumes[label.structure] = volumes.get(label.structure, 0.0) + float(covariates[label.covariate])
    return volumes


def draw_rows(check: Check, chunk: range) -> list[dict[str, Any]]:
    """A row per draw and structure: mm³ asked and mm³ on the label map, and the smallest Jacobian of the draw."""
    generator = _generator(check, check.spacing, False)
    rows = []
    for index in chunk:
        params = generator.draw(rng_for(check.seed, index, "morphometry check"))
        person = Person(**params["person"])
        anatomy = generator.anatomy_of(params)
        found = structure_volumes(dict(generator.render(params).covariates))
        folds = generator.plan(params).nodes.smallest_jacobian()
        head = person.icv_ml / anatomy.intracranial_ml
        for name, change in wanted_changes(anatomy, person, generator.own_reference).items():
            asked = anatomy.volumes[name] * head * math.exp(change)
            rows.append(
                {
                    "index": index,
                    "age": person.age,
                    "diagnosis": person.diagnosis,
                    "structure": name,
                    "asked": round(asked, 1),
                    "realised": found.get(name, 0.0),
                    "smallest_jacobian": folds,
                }
            )
    return rows


def group_rows(check: Check, chunk: range) -> list[dict[str, Any]]:
    """A row per person and group. Person i of every group has the same age, sex, head, own deviations, warp and pose;
    groups differ in disease alone, which takes most of the sampling error out of their difference."""
    generator = _generator(check, COARSE_MM, True)
    rows = []
    for index in chunk:
        params = generator.draw(rng_for(check.seed, index, "effects check"))
        for diagnosis in DIAGNOSES:
            rng = rng_for(check.seed, index, f"effects check {diagnosis}")
            severity = float(np.exp(SEVERITY_SD * rng.standard_normal())) if diagnosis != "CN" else 0.0
            stage = int(rng.choice(list(STAGE_MIX), p=list(STAGE_MIX.values()))) if diagnosis == "PD" else 0
            who = {**params["person"], "diagnosis": diagnosis, "stage": stage, "severity": severity}
            covariates = generator.render({**params, "person": who, "noise_seed": new_seed(rng)}).covariates
            row = {"index": index, "diagnosis": diagnosis, "age": who["age"], "sex": who["sex"]}
            rows.append({**row, **structure_volumes(dict(covariates))})
    return rows


def volume_table(draws: pd.DataFrame) -> pd.DataFrame:
    """Structure → median, 95th percentile and largest |error| (share of what was asked), and the share of draws within
    ``CLOSE``."""
    error = (draws["realised"] / draws["asked"] - 1).abs()
    of_structure: Any = error.groupby(draws["structure"], sort=False)
    table = of_structure.quantile([0.5, 0.95, 1.0]).unstack()
    table.columns = pd.Index(["median", "p95", "largest"])
    table["allowed"] = [CLOSE.get(str(name), math.nan) for name in table.index]
    table["within"] = [
        float((of_structure.get_group(name) <= CLOSE[str(name)]).mean()) if name in CLOSE else math.nan
        for name in table.index
    ]
    return table.round(4)


def effect_table(people: pd.DataFrame) -> pd.DataFrame:
    """Per disease and structure: Cohen's d of log volume by the effects table, and as realised.

    d = group coefficient / residual SD of the linear model log volume ~ group + age + age² + sex + log ICV over patients
    and healthy people together.
    """
    rows = []
    brain = [c for c in people.columns if c not in ("index", "diagnosis", "age", "sex")]
    inside = [label.structure for label in label_table().values() if label.is_intracranial]
    head = np.log(people[[name for name in brain if name in inside]].sum(axis=1))
    for disease in DIAGNOSES[1:]:
        chosen = people["diagnosis"].isin(["CN", disease])
        group = (people["diagnosis"] == disease)[chosen].to_numpy(float)
        age = people["age"][chosen].to_numpy(float) / 10 - 7
        columns = [np.ones_like(group), group, age, age**2, (people["sex"] == "M")[chosen], head[chosen]]
        design = np.column_stack([np.asarray(column, float) for column in columns])
        for name, effect in effects().items():
            wanted = {"AD": effect.ad_d, "MCI": effect.ad_d * effect.mci_share, "PD": effect.pd_d}[disease]
            found = cohens_d(design, np.log(people[name][chosen].to_numpy(float)))
            rows.append({"disease": disease, "structure": name, "table_d": wanted, "realised_d": round(found, 4)})
    return pd.DataFrame(rows)


def cohens_d(design: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> float:
    """Coefficient of the second column of ``design [N, K]`` over the residual SD (N - K degrees of freedom)."""
    coefficients, *_ = np.linalg.lstsq(design, values, rcond=None)
    residual = values - design @ coefficients
    return float(coefficients[1] / np.sqrt((residual**2).sum() / (len(values) - design.shape[1])))


def summary(results: dict[str, Any]) -> str:
    """What came out, in lines."""
    lines = [f"{'structure':<28}{'median':>9}{'95 %':>9}{'largest':>9}   within"]
    for name, row in results["volumes"].items():
        allowed = "" if math.isnan(row["allowed"]) else f"{row['within']:.1%} within {row['allowed']:.0%}"
        lines.append(f"{name:<28}{row['median']:>9.2%}{row['p95']:>9.2%}{row['largest']:>9.2%}   {allowed}")
    lines.append(f"smallest Jacobian {results['smallest_jacobian']:.4f} (above 0: nothing folds)")
    if results["effects"]:
        far = [abs(row["realised_d"] - row["table_d"]) for row in results["effects"]]
        worst = results["effects"][int(np.argmax(far))]
        lines.append(
            f"Cohen's d: {np.mean(np.array(far) <= NEAR_D):.1%} of {len(far)} effects within ±{NEAR_D}; farthest "
            f"{worst['structure']} in {worst['disease']}: {worst['realised_d']:+.2f}, table {worst['table_d']:+.2f}"
        )
    return "\n".join(lines)
