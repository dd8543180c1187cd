"""report.html: one self-contained file that says what was run, on whom, and what came out."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from benchmarks import figures
from pretrain.weights import CONFIG, read_config
from synth.corpus import Corpus
from synth.errors import UserError
from synth.sample import spacing_of
from synth.storage import write_atomically

METRICS = {
    "roc_auc": "ROC-AUC",
    "balanced_accuracy": "balanced accuracy",
    "mae_years": "MAE, years",
    "gain_over_scratch": "gain over scratch",
}
STYLE = """
:root{--ink:#1d2733;--paper:#fff;--line:#dfe5ea;--soft:#f4f7f9;--accent:#1f6f8b}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--paper:#14191f;--line:#2c3640;--soft:#1c232b;--accent:#6fb9d3}
 .figure{background:#fff;border-radius:6px}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:72rem;padding:1.5rem}
h1{font-size:1.7rem;margin:.2em 0}h2{margin-top:2.2em;border-bottom:1px solid var(--line);padding-bottom:.2em}
.finding{font-size:1.15rem;background:var(--soft);border-left:4px solid var(--accent);padding:.8rem 1rem}
.warning{border:1px solid #c2571a;padding:.6rem 1rem;border-radius:6px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:left;padding:.3rem .7rem;border-bottom:1px solid var(--line);white-space:nowrap}
tr.control{color:#6b7885}tr.best td{font-weight:600}
img,svg{max-width:100%;height:auto}pre{background:var(--soft);padding:1rem;overflow-x:auto;font-size:.8rem}
"""


@dataclass(frozen=True, eq=False)
class Story:
    """What a report is made of: experiments (results.json folders), corpora, weights, seconds per stage."""

    experiments: list[Path] = field(default_factory=list)
    corpora: list[Path] = field(default_factory=list)
    weights: list[Path] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def of(folders: list[Path]) -> Story:
        """Sort folders by what they hold. Raises UserError for one that holds none of the three."""
        story = Story()
        for folder in folders:
            if (folder / "results.json").is_file():
                if "benchmark" in json.loads((folder / "results.json").read_text()):
                    raise UserError(
                        f"'{folder}' was made by brainloom benchmark speed; a report takes folders of finetune run, "
                        "weights and corpora"
                    )
                story.experiments.append(folder)
            elif (folder / CONFIG).is_file():
                story.weights.append(folder)
            elif (folder / "zarr.json").is_file():
                story.corpora.append(folder)
            else:
                raise UserError(
                    f"'{folder}' holds no results.json, weights or corpus; expected folders made by brainloom"
                )
        if not story.experiments:
            raise UserError("no folder with results.json was given; run brainloom finetune run first")
        return story


def write_report(story: Story, out: Path) -> Path:
    """Write ``out/report.html`` and return its path."""
    results = [json.loads((folder / "results.json").read_text()) for folder in story.experiments]
    body = [
        "<h1>brainloom report</h1>",
        '<div class="finding">' + "".join(f"<p>{escape(sentence)}</p>" for sentence in findings(results)) + "</div>",
        said_plainly(results, story),
        *(section(one, folder) for one, folder in zip(results, story.experiments, strict=True)),
        learning(story),
        pictures(story),
        recipe(results, story),
        timings(results, story),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>brainloom report</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>"
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.html"
    write_atomically(path, page)
    return path


def main_metric(results: dict[str, Any]) -> tuple[str, bool]:
    """(name of the metric arms are ranked by, whether higher is better)."""
    return ("mae_years", False) if results["task"] == "age" else ("roc_auc", True)


def hardest_set(results: dict[str, Any]) -> str:
    """The test set the finding speaks of: the held-out site where there is one."""
    return list(results["test_sets"])[-1]


def best(results: dict[str, Any], kinds: tuple[str, ...]) -> dict[str, Any] | None:
    """The best arm of some kinds on the hardest test set, or None."""
    metric, higher = main_metric(results)
    arms = [arm for arm in results["arms"] if figures.kind_of(arm) in kinds]
    sign = 1 if higher else -1
    return max(arms, key=lambda arm: sign * arm["metrics"][hardest_set(results)][metric]["value"], default=None)


def findings(results: list[dict[str, Any]]) -> list[str]:
    """The first lines: per task the best pre-trained arm against scratch, and whether a control did better."""
    sentences = []
    for one in results:
        metric, higher = main_metric(one)
        where = hardest_set(one)
        ours, scratch = best(one, ("pretrained",)), best(one, ("scratch",))
        control = best(one, ("control", "untrained"))
        named = {"ad": "AD", "pd": "PD", "age": "Brain age"}[one["task"]]
        if ours is None:
            top = best(one, ("scratch", "untrained"))
            sentences.append(
                f"{named}: {top['name']} {_value(top, where, metric)}." if top else f"{named}: controls only."
            )
            continue
        text = f"{named}, {where}: best pre-trained arm {_value(ours, where, metric)} ({ours['name']})"
        text += f", best from scratch {_value(scratch, where, metric)}" if scratch else ""
        if control is not None:
            theirs, own = control["metrics"][where][metric]["value"], ours["metrics"][where][metric]["value"]
            wins = theirs > own if higher else theirs < own
            text += f"; the control “{control['name']}” {'does better' if wins else 'does not do better'}: {_value(control, where, metric)}"
        sentences.append(text + ".")
    if any(one["cohort"]["simulated"] for one in results):
        sentences.append(
            "The people are simulated: this ranks methods under a known truth and says nothing about patients."
        )
    return sentences


def _value(arm: dict[str, Any], where: str, metric: str) -> str:
    value = arm["metrics"][where][metric]
    unit = " years MAE" if metric == "mae_years" else " AUC"
    digits = 1 if metric == "mae_years" else 2
    return f"{value['value']:.{digits}f}{unit} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def said_plainly(results: list[dict[str, Any]], story: Story) -> str:
    """What was simulated and what was real, in words."""
    lines = []
    for path in story.corpora:
        corpus = Corpus(path)
        generator = corpus.header.recipe["generator"]
        lines.append(
            f"The corpus {path.name} holds {len(corpus)} volumes made by the generator {generator['class_path']}, "
            f"seed {corpus.header.seed}: no person was scanned for them."
        )
    for name, simulated in {one["cohort"]["name"]: one["cohort"]["simulated"] for one in results}.items():
        lines.append(
            f"The cohort {name} is simulated: its people, their ages, diagnoses and scanners were drawn by the same kind of "
            "generator from published effect sizes, with another seed, other anatomy variation and other scanners. What is "
            "measured on it shows that the pipeline works; it is never evidence about patients."
            if simulated
            else f"The cohort {name} holds real people; the scans were prepared on this machine and nothing of them is shown here."
        )
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="warning"><strong>What was simulated</strong><ul>{items}</ul></div>'


def section(results: dict[str, Any], folder: Path) -> str:
    """One experiment: its table, its forest plot, and for brain age the scatter."""
    about, people = results["cohort"], results["train_people"]
    labels = f"{people[0]}" if len(set(people)) == 1 else f"{people[0]}–{people[-1]}"
    parts = [
        f"<h2>{escape(results['title'])}</h2>",
        f"<p>{about['people']} {'simulated' if about['simulated'] else 'real'} people of {escape(about['name'])}; each model learnt "
        f"from {labels} labelled people; {results['protocol']['seeds']} seed(s), each with its own labelled people and "
        "initialisation; 95 % intervals by bootstrap over people and seeds.</p>",
    ]
    parts += [table(results, name) for name in results["test_sets"]]
    parts += [
        f"<p>Anchor from elsewhere, not measured here: {escape(row['name'])}, {row['mae_years']} years MAE "
        f"({escape(row['source'])}).</p>"
        for row in results["anchors"]
    ]
    parts.append(
        f'<div class="figure scroll" role="img" aria-label="arms with intervals">{figures.forest(results)}</div>'
    )
    parts.append(
        "<p><small>Dots are means over seeds, bars 95 % intervals. Orange: trained from scratch; yellow: untrained and "
        "frozen; blue: pre-trained; grey: controls without a network.</small></p>"
    )
    chosen = best(results, ("pretrained",)) or best(results, ("scratch", "untrained"))
    predictions = folder / "predictions.tsv"
    if results["task"] == "age" and chosen is not None and predictions.is_file():
        with predictions.open() as file:
            drawn = figures.age_scatter(list(csv.DictReader(file, delimiter="\t")), chosen["name"])
        parts.append(
            f'<p>{escape(chosen["name"])}:</p><div class="figure" role="img" aria-label="predicted against true age">{drawn}</div>'
        )
    return "".join(parts)


def table(results: dict[str, Any], test_set: str) -> str:
    """Arms as rows, metrics with intervals as columns, the best value of the main metric in bold."""
    metric, higher = main_metric(results)
    names = [name for name in METRICS if any(name in arm["metrics"][test_set] for arm in results["arms"])]
    values = [arm["metrics"][test_set][metric]["value"] for arm in results["arms"]]
    top = max(values) if higher else min(values)
    rows = []
    for arm, value in zip(results["arms"], values, strict=True):
        kind = figures.kind_of(arm) + (" best" if value == top else "")
        cells = "".join(f"<td>{_cell(arm['metrics'][test_set].get(name))}</td>" for name in names)
        rows.append(f'<tr class="{kind}"><td>{escape(arm["name"])}</td>{cells}</tr>')
    head = "".join(f"<th scope='col'>{METRICS[name]}</th>" for name in names)
    return (
        f"<h3>{escape(test_set)}, {results['test_sets'][test_set]} people tested</h3>"
        f"<div class='scroll'><table><thead><tr><th scope='col'>arm</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: dict[str, float] | None) -> str:
    if value is None:
        return "–"
    digits = 1 if max(abs(value["low"]), abs(value["high"])) > 2 else 3
    return f"{value['value']:.{digits}f} <small>[{value['low']:.{digits}f}, {value['high']:.{digits}f}]</small>"


def learning(story: Story) -> str:
    """Pre-training: loss curves and figures on held-out synthetic volumes."""
    if not story.weights:
        return ""
    drawn = figures.curves({folder.name: folder / "log" / "version_0" / "metrics.csv" for folder in story.weights})
    parts = ["<h2>Pre-training</h2>"]
    if drawn:
        parts.append(f'<div class="figure scroll" role="img" aria-label="training loss">{drawn}</div>')
    for folder in story.weights:
        about = read_config(folder)
        shown = ", ".join(f"{escape(name)} {value}" for name, value in about.figures.items())
        parts.append(
            f"<p><strong>{escape(folder.name)}</strong>: {about.backbone}, {about.objective}, {about.training['steps']} steps of "
            f"{about.training['batch_size']}, {about.training['volumes_per_second']} volumes/s. Held-out: {shown}.</p>"
        )
    return "".join(parts)


def pictures(story: Story) -> str:
    """Mosaics of every corpus."""
    parts = ["<h2>Volumes and their label maps</h2>"] if story.corpora else []
    for path in story.corpora:
        corpus = Corpus(path)
        spacing = " × ".join(f"{s:g}" for s in spacing_of(corpus.entry(0)["affine"]))
        parts.append(
            f"<h3>{escape(path.name)}</h3><p>{len(corpus)} volumes {corpus.image_shape[1:]} at {spacing} mm; axial, coronal, "
            f'sagittal; left is left.</p><img alt="volumes of {escape(path.name)}" src="{figures.mosaic(corpus)}">'
        )
    return "".join(parts)


def recipe(results: list[dict[str, Any]], story: Story) -> str:
    """Everything needed to make it again, seeds included."""
    content = {
        "corpora": {
            path.name: {
                **Corpus(path).header.recipe,
                "seed": Corpus(path).header.seed,
                "count": len(Corpus(path)),
                "versions": Corpus(path).header.versions,
            }
            for path in story.corpora
        },
        "weights": {folder.name: read_config(folder).training for folder in story.weights},
        "protocol": {one["task"]: one["protocol"] for one in results},
    }
    return f"<h2>Recipe</h2><pre>{escape(json.dumps(content, indent=1))}</pre>"


def timings(results: list[dict[str, Any]], story: Story) -> str:
    """Seconds per stage."""
    rows = {**story.timings} or {f"finetune {one['task']}": one["seconds"] for one in results}
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{seconds:.0f} s</td></tr>" for name, seconds in rows.items())
    total = f"<tr><td>in all</td><td>{sum(rows.values()):.0f} s</td></tr>"
    return f"<h2>Timings</h2><table><tbody>{cells}{total}</tbody></table>"
