"""Commands of the room finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from synth.errors import UserError


def run(
    task: Literal["ad", "pd", "age"],
    cohort: Path,
    out: Path,
    weights: tuple[str, ...] = ("none",),
    mode: Literal["auto", "frozen", "full"] = "auto",
    backbone: str = "sfcn_s",
    shape: tuple[int, int, int] = (40, 48, 40),
    spacing: float = 4.0,
    seeds: int = 1,
    folds: int = 5,
    labels: int | None = None,
    test_site: str | None = None,
    splits: Path | None = None,
    fold_by: Literal["participant", "site"] = "participant",
    columns: tuple[str, ...] = (),
    values: tuple[str, ...] = (),
    visits: Literal["first", "last", "all"] = "first",
    split: Path | None = None,
    epochs: int = 30,
    learning_rate: float = 1e-3,
) -> int:
    """Take weights through a task on a cohort: cross-validated by person, or tested on a held-out site.

    Scans are brought to canonical orientation, boxed around the head, resampled to the weights' grid and normalised
    here. Writes results.json, predictions.tsv and splits.tsv; what an interrupted run finished is kept.

    Args:
        task: ad, pd or age.
        cohort: BIDS folder (participants.tsv and sub-*/**/anat/*_T1w.nii.gz) or corpus.
        out: folder of the results.
        weights: folders made by brainloom pretrain run, or none for a fresh backbone; several with commas.
        mode: frozen (linear model on frozen features), full (everything trained); auto is frozen for weights, full for none.
        backbone: of fresh backbones.
        shape: voxels of the volumes for fresh backbones.
        spacing: mm, likewise.
        seeds: repetitions with other folds, labelled people and initialisation.
        folds: of the cross-validation by person.
        labels: learn from at most so many people.
        test_site: test on this site alone and on a part of the others; never learn from it.
        splits: TSV with participant_id and split (train and test, or fold-1, fold-2…) instead of cross-validation, such
            as the splits.tsv of another run.
        fold_by: site keeps every site whole within one fold.
        columns: names of the cohort's columns, such as diagnosis=DX_bl,age=AGE; or a ready map or YAML file, such as adni.
        values: meanings of its values, such as HC=CN,Dementia=AD,sex:1=M (0 is CN).
        visits: which scans of people with several sessions; all keeps everybody's on one side.
        split: older name of splits.
        epochs: of full fine-tuning.
        learning_rate: of full fine-tuning.
    """
    from finetune.cohort import load_cohort
    from finetune.columns import column_map
    from finetune.heads import FineTuning
    from finetune.protocol import Arm, Protocol, controls, run_experiment
    from finetune.tasks import find_task
    from synth.progress import progress_bar

    for name, value in (("seeds", seeds), ("epochs", epochs), ("labels", labels)):
        if value is not None and value < (8 if name == "labels" else 1):
            raise UserError(f"--{name} is {value}; expected {8 if name == 'labels' else 1} or more")
    if not spacing > 0:
        raise UserError(f"--spacing is {spacing}; expected mm above 0")
    people = load_cohort(cohort, column_map(columns, values), visits)
    chosen = find_task(task)
    arms = []
    for word in weights:
        fresh = word.lower() == "none"
        how: Any = ("full" if fresh else "frozen") if mode == "auto" else mode
        arms.append(_arm(word, how, backbone, fresh, Arm))
    protocol = Protocol(
        seeds,
        folds,
        labels,
        test_site,
        split=splits or split,
        fold_by=fold_by,
        grid=(shape, (spacing,) * 3),
        fine_tuning=FineTuning(epochs=epochs, learning_rate=learning_rate),
    )
    with progress_bar(f"finetune {task}", "arms × seeds") as show:
        results = run_experiment(people, chosen, [*arms, *controls(people, chosen)], protocol, out, show)
    print(table(results))
    print(f"results: {out / 'results.json'}")
    return 0


def _arm(word: str, how: Any, backbone: str, fresh: bool, make: Any) -> Any:
    from pretrain.weights import read_config

    if fresh:
        return make(f"{backbone}, {'scratch' if how == 'full' else 'untrained, frozen'}", how, None, backbone)
    about = read_config(Path(word))
    suffix = "frozen" if how == "frozen" else "fine-tuned"
    return make(
        f"{about.backbone}, {about.objective} on {about.corpus['name']}, {suffix}", how, Path(word), about.backbone
    )


def table(results: dict[str, Any]) -> str:
    """The table of arms as text, anchors below, with a line that says what the people were."""
    about = results["cohort"]
    kind = (
        "SIMULATED people: this proves the pipeline and says nothing about patients"
        if about["simulated"]
        else "real people"
    )
    trained = "–".join(map(str, sorted({results["train_people"][0], results["train_people"][-1]})))
    scans = f" ({about['scans']} scans)" if "scans" in about else ""
    lines = [
        f"{results['title']}: {about['people']} people{scans} of {about['name']} ({kind}); learnt from {trained} at a time"
    ]
    for test_set, count in results["test_sets"].items():
        lines.append(f"  {test_set} ({count} tested)")
        for arm in results["arms"]:
            shown = "  ".join(
                f"{metric.replace('_', ' ')} {_interval(value)}" for metric, value in arm["metrics"][test_set].items()
            )
            lines.append(f"    {arm['name']:<48} {shown}")
    for anchor in results["anchors"]:
        lines.append(f"  anchor: {anchor['name']} {anchor['mae_years']} years MAE ({anchor['source']})")
    return "\n".join(lines)


def _interval(value: dict[str, float]) -> str:
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"
