"""The first lines of a report: what was found, and whether a control did better."""

from __future__ import annotations

from typing import Any

from benchmarks.page.story import CHECKS, best, hardest_set, main_metric, value_of

TASKS = {"ad": "AD", "pd": "PD", "age": "Brain age"}


def findings(results: list[dict[str, Any]]) -> list[str]:
    """Per task the best pre-trained arm against scratch and the best control; failed controls stand first."""
    broken = [sentence for one in results for sentence in failed_controls(one)]
    sentences = [finding(one) for one in results]
    wins = [text for text in sentences if "” does better" in text]
    sentences = broken + wins + [text for text in sentences if text not in wins]
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
    """One experiment in a sentence."""
    metric, higher = main_metric(one)
    where, named = hardest_set(one), TASKS.get(one["task"], one["task"])
    ours, scratch = best(one, ("pretrained",)), best(one, ("scratch",))
    control = best(one, ("control", "untrained"))
    if ours is None:
        top = best(one, ("scratch", "untrained"))
        return f"{named}: {top['name']} {_value(top, where, metric)}." if top else f"{named}: controls only."
    text = f"{named}, {where}: best pre-trained arm {_value(ours, where, metric)} ({ours['name']})"
    text += f", best from scratch {_value(scratch, where, metric)}" if scratch else ""
    if control is not None:
        theirs, own = value_of(control, where, metric), value_of(ours, where, metric)
        assert theirs is not None and own is not None
        wins = theirs["value"] > own["value"] if higher else theirs["value"] < own["value"]
        says = "does better" if wins else "does not do better"
        text += f"; the control “{control['name']}” {says}: {_value(control, where, metric)}"
    return text + "."


def _value(arm: dict[str, Any], where: str, metric: str) -> str:
    value = arm["metrics"][where][metric]
    unit = {"mae_years": " years MAE", "roc_auc": " AUC"}.get(metric, f" {metric}")
    digits = 1 if metric.startswith("mae") else 2
    return f"{value['value']:.{digits}f}{unit} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
