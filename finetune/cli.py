"""Commands of the room finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from synth.errors import UserError


def run(
    task: str,
    cohort: Path,
    out: Path,
    weights: tuple[str, ...] = ("none",),
    init: tuple[str, ...] = (),
    mode: tuple[str, ...] = ("auto",),
    backbone: str = "sfcn_s",
    shape: tuple[int, int, int] = (40, 48, 40),
    spacing: float = 4.0,
    seeds: int = 1,
    folds: int = 5,
    labels: int | None = None,
    fractions: tuple[float, ...] = (100.0,),
    positive: tuple[str, ...] = (),
    negative: tuple[str, ...] = (),
    external: tuple[Path, ...] = (),
    test_site: str | None = None,
    splits: Path | None = None,
    fold_by: Literal["participant", "site"] = "participant",
    columns: tuple[str, ...] = (),
    values: tuple[str, ...] = (),
    visits: Literal["first", "last", "all"] = "first",
    split: Path | None = None,
    epochs: int = 30,
    learning_rate: tuple[float, ...] = (3e-4, 1e-3),
    layer_decay: float = 0.75,
    rank: int = 8,
    workers: int = 0,
    explain: bool = False,
) -> int:
    """Take weights through a task on a cohort: cross-validated by person, or tested on a held-out site.

    Scans are brought to canonical orientation, boxed around the head, resampled to the weights' grid and normalised
    here. Writes results.json, predictions.tsv and splits.tsv; what an interrupted run finished is kept.

    Args:
        task: ad, pd, age, or a YAML file with name, column, kind and more.
        cohort: BIDS folder (participants.tsv and sub-*/**/anat/*_T1w.nii.gz) or corpus.
        out: folder of the results.
        weights: folders made by brainloom pretrain run, or none for a fresh backbone; several with commas.
        init: arms more, of the backbone as it begins from a file, folder or hub id that pretrain run --init takes, such as a
            network of images or videos; several with commas.
        mode: frozen (linear model on frozen features), knn (neighbours on them), lora (adapters on a transformer's linear
            layers) or full (everything trained), several with commas; auto is frozen for weights and starts, full for none.
        backbone: of fresh backbones.
        shape: voxels of the volumes for fresh backbones.
        spacing: mm, likewise.
        seeds: repetitions with other folds, labelled people and initialisation.
        folds: of the cross-validation by person.
        labels: learn from at most so many people.
        fractions: percent of the training people to learn from, several with commas; smaller ones are part of larger.
        positive: values of class 1 instead of the task's, such as AD,MCI or pMCI.
        negative: values of class 0 instead of CN, such as sMCI.
        external: cohorts that are only tested on, whole.
        test_site: test on this site alone and on a part of the others; never learn from it.
        splits: TSV with participant_id and split (train and test, or fold-1, fold-2…) instead of cross-validation, such
            as the splits.tsv of another run.
        fold_by: site keeps every site whole within one fold.
        columns: names of the cohort's columns, such as diagnosis=DX_bl,age=AGE; or a ready map or YAML file, such as adni.
        values: meanings of its values, such as HC=CN,Dementia=AD,sex:1=M (0 is CN).
        visits: which scans of people with several sessions; all keeps everybody's on one side.
        split: older name of splits.
        epochs: of full fine-tuning.
        learning_rate: of full and lora; of several one is chosen on validation people drawn from the training people.
        layer_decay: of full's learning rate from layer to layer, towards the input, where weights are given.
        rank: of lora's adapters.
        workers: Ray workers for arms, fractions and seeds; 0 works without Ray.
        explain: write maps of where the best frozen arm looks.
    """
    from finetune.arms import MODE_NAMES
    from finetune.cohort import load_cohort
    from finetune.columns import column_map
    from finetune.heads import FineTuning
    from finetune.protocol import Arm, Protocol, controls, run_experiment
    from finetune.tasks import find_task
    from synth.progress import progress_bar

    for name, value in (("seeds", seeds), ("epochs", epochs), ("labels", labels)):
        if value is not None and value < (8 if name == "labels" else 1):
            raise UserError(f"--{name} is {value}; expected {8 if name == 'labels' else 1} or more")
    _check_numbers(spacing, fractions, learning_rate, layer_decay, rank, workers)
    read = column_map(columns, values)
    chosen = find_task(task).with_classes(positive, negative)
    people = load_cohort(cohort, read, visits)
    others = [load_cohort(one, read, visits) for one in external]
    arms = [_arm(word, how, backbone, Arm) for word in weights for how in _modes(mode, word)]
    arms += [
        Arm(f"{backbone} from {one}, {MODE_NAMES[how]}", how, None, backbone, init=one)
        for one in init
        for how in _modes(mode, one)
    ]
    protocol = Protocol(
        seeds,
        folds,
        labels,
        test_site,
        split=splits or split,
        fold_by=fold_by,
        grid=(shape, (spacing,) * 3),
        fine_tuning=FineTuning(
            epochs=epochs,
            learning_rate=learning_rate[0],
            rates=learning_rate,
            layer_decay=layer_decay,
            rank=rank,
        ),
        fractions=fractions,
    )
    everything = [*arms, *controls(people, chosen, arms)]
    if explain and not any(arm.mode == "frozen" and not arm.control for arm in everything):
        raise UserError("--explain draws maps of frozen arms, and there is none; add --mode frozen")
    with progress_bar(f"finetune {chosen.name}", "arms × fractions × seeds") as show:
        results = run_experiment(people, chosen, everything, protocol, out, show, workers, others)
    if explain:
        print(f"explanation: {_explain(people, chosen, everything, protocol, out, others, results)}")
    print(table(results))
    print(f"results: {out / 'results.json'}")
    return 0


def _check_numbers(
    spacing: float,
    fractions: tuple[float, ...],
    rates: tuple[float, ...],
    layer_decay: float,
    rank: int,
    workers: int,
) -> None:
    """Raise UserError for the first option that is out of its range."""
    from synth.errors import UserError

    if not spacing > 0:
        raise UserError(f"--spacing is {spacing}; expected mm above 0")
    if not fractions or not all(0 < one <= 100 for one in fractions):
        raise UserError(
            f"--fractions is {','.join(f'{one:g}' for one in fractions)}; expected percents above 0, to 100"
        )
    if not rates or not all(one > 0 for one in rates):
        raise UserError(f"--learning-rate is {','.join(f'{one:g}' for one in rates)}; expected numbers above 0")
    if not 0 < layer_decay <= 1:
        raise UserError(f"--layer-decay is {layer_decay:g}; expected above 0, to 1")
    for name, value, least in (("rank", rank, 1), ("workers", workers, 0)):
        if value < least:
            raise UserError(f"--{name} is {value}; expected {least} or more")


def _modes(words: tuple[str, ...], weights: str) -> list[Any]:
    from finetune.arms import MODES
    from synth.errors import UserError, near

    for word in words:
        if word not in ("auto", *MODES):
            raise UserError(f"--mode is '{word}'; expected one of auto, {near(word, MODES, 4)}")
    usual = "full" if weights.lower() == "none" else "frozen"
    return list(dict.fromkeys(usual if word == "auto" else word for word in words))


UNTRAINED = {"frozen": "untrained, frozen", "knn": "untrained, k-NN", "full": "scratch", "lora": "untrained, LoRA"}


def _arm(word: str, how: Any, backbone: str, make: Any) -> Any:
    from finetune.arms import MODE_NAMES
    from pretrain.weights import read_config

    if word.lower() == "none":
        return make(f"{backbone}, {UNTRAINED[how]}", how, None, backbone)
    about = read_config(Path(word))
    name = f"{about.backbone}, {about.objective} on {about.corpus['name']}, {MODE_NAMES[how]}"
    return make(name, how, Path(word), about.backbone)


def _explain(
    cohort: Any, task: Any, arms: list[Any], protocol: Any, out: Path, others: list[Any], results: dict[str, Any]
) -> Path:
    from finetune.explain import best_frozen, explain
    from finetune.protocol import bench_of

    return explain(best_frozen(arms, results), bench_of(cohort, task, protocol, out, others), out)


SHOWN = ("roc_auc", "balanced_accuracy", "mae_years", "mae", "r2", "gain_over_scratch")


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
                f"{metric.replace('_', ' ')} {_interval(value)}"
                for metric, value in arm["metrics"][test_set].items()
                if metric in SHOWN
            )
            lines.append(f"    {arm['name']:<48} {shown}")
    for one in results.get("controls_hold", []):
        if one["held"] is False:
            lines.append(f"  CONTROL FAILED: {one['control']} ({one['test_set']}) is not {one['expectation']}")
    for one in results.get("missing_controls", []):
        lines.append(f"  no control {one['control']}: {one['reason']}")
    for anchor in results["anchors"]:
        lines.append(f"  anchor: {anchor['name']} {anchor['mae_years']} years MAE ({anchor['source']})")
    return "\n".join(lines)


def _interval(value: dict[str, float]) -> str:
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"
