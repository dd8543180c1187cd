"""The first lines of a report: what was found, and whether a control did better."""

from __future__ import annotations

from typing import Any

from benchmarks.page.story import CHECKS, best, hardest_set, main_metric, value_of

TASKS = {"ad": "AD", "pd": "PD", "age": "Brain age"}


def findings(results: list[dict[str, Any]]) -> list[str]:
    """Failed controls first, then tasks where a control does better than every network, then the rest."""
    broken = [sentence for one in results for sentence in failed_controls(one)]
    told = sorted(((not winning_controls(one), finding(one)) for one in results), key=lambda pair: pair[0])
    sentences = broken + [text for _, text in told]
    if any(one["cohort"]["simulated"] for one in results):
        sentences.append(
            "The people are simulated: this ranks methods under a known truth and says nothing about patients."
        )
    return sentences


def failed_controls(results: dict[str, Any]) -> list[str]:
    """A sentence where the experiment's own controls did not come out as they must."""
    given = results.get("controls_hold", [])
    failed = [
        f"“{one['control']}” ({one['expectation']})" for one in given if one["held"] is False and one["kind"] in CHECKS
    ]
    name = TASKS.get(results["task"], results["task"])
    return [f"{name}: {', '.join(failed)} did not come out as expected; trust none of its figures."] if failed else []


def finding(one: dict[str, Any]) -> str:
    """One experiment in a sentence: the hardest test set, and every set on which a control does better."""
    metric, _ = main_metric(one)
    where, named = hardest_set(one), TASKS.get(one["task"], one["task"])
    ours, scratch = best(one, ("pretrained",)), best(one, ("scratch",))
    top = ours or best(one, ("scratch", "untrained"))
    if top is None:
        return f"{named}: controls only."
    if ours is None:
        text = f"{named}, {where}: {top['name']} {_value(top, where, metric)}"
    else:
        text = f"{named}, {where}: best pre-trained arm {_value(ours, where, metric)} ({ours['name']})"
        text += f", best from scratch {_value(scratch, where, metric)}" if scratch else ""
    winners = winning_controls(one)
    for place, winner in winners.items():
        on = "" if place == where else f" on {place}"
        text += f"; the control “{winner['name']}” does better{on}: {_value(winner, place, metric)}"
    control = best(one, CONTROLS)
    if where not in winners and control is not None and control is not top:
        text += f"; the control “{control['name']}” does not do better: {_value(control, where, metric)}"
    return text + "."


CONTROLS, NETWORKS = ("control", "untrained"), ("pretrained", "scratch")


def winning_controls(one: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Test set → control that does better there than every arm that learnt something."""
    metric, higher = main_metric(one)
    found = {}
    for where in one["test_sets"]:
        control, ours = best(one, CONTROLS, where), best(one, NETWORKS, where)
        if control is None or ours is None:
            continue
        theirs, own = value_of(control, where, metric), value_of(ours, where, metric)
        assert theirs is not None and own is not None
        if theirs["value"] > own["value"] if higher else theirs["value"] < own["value"]:
            found[where] = control
    return found


def _value(arm: dict[str, Any], where: str, metric: str) -> str:
    value = arm["metrics"][where][metric]
    unit = {"mae_years": " years MAE", "roc_auc": " AUC"}.get(metric, f" {metric}")
    digits = 1 if metric.startswith("mae") else 2
    return f"{value['value']:.{digits}f}{unit} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
