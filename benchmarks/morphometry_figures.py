"""Pictures of ``brainloom benchmark morphometry``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

SHOWN = ("hippocampus", "amygdala", "thalamus", "putamen", "lateral_ventricle", "third_ventricle")
COLOURS = {"CN": "#5b6b7a", "MCI": "#d9a03f", "AD": "#b6413a", "PD": "#1f6f8b"}


def asked_and_realised(draws: pd.DataFrame, path: Path) -> None:
    """mL asked against mL on the label map, a point a draw; log axes for ventricles."""
    from matplotlib.figure import Figure

    shown = [name for name in SHOWN if name in set(draws["structure"])]
    sheet = Figure(figsize=(10, 6.4), layout="constrained")
    for axis, name in zip(sheet.subplots(2, 3).ravel(), shown, strict=False):
        part = draws[draws["structure"] == name]
        allowed = 0.10 if "ventricle" in name else 0.05
        ends = pd.Series([part["asked"].min(), part["asked"].max()]) / 1000
        axis.fill_between(ends, ends * (1 - allowed), ends * (1 + allowed), color="#d7e3ea", label=f"±{allowed:.0%}")
        for diagnosis, of_group in part.groupby("diagnosis"):
            colour = COLOURS.get(str(diagnosis), "k")
            axis.plot(of_group["asked"] / 1000, of_group["realised"] / 1000, ".", ms=4, color=colour, label=diagnosis)
        if "ventricle" in name:
            axis.set(xscale="log", yscale="log")
        axis.set(title=name.replace("_", " "), xlabel="asked, mL", ylabel="on the label map, mL")
    sheet.axes[0].legend(fontsize=8)
    sheet.savefig(path, dpi=75)


def effect_sizes(table: pd.DataFrame, path: Path) -> None:
    """Cohen's d of the table against that of the simulated groups, a point a structure and disease."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(7, 6), layout="constrained")
    axis = sheet.subplots()
    ends = pd.Series([table["table_d"].min() - 0.2, table["table_d"].max() + 0.2])
    axis.fill_between(ends, ends - 0.1, ends + 0.1, color="#d7e3ea", label="±0.1")
    for disease, part in table.groupby("disease", sort=False):
        axis.plot(part["table_d"], part["realised_d"], "o", ms=5, color=COLOURS[str(disease)], label=disease)
        for _, row in part[part["table_d"].abs() > 0.45].iterrows():
            words = str(row["structure"]).replace("_", " ").replace("inferior lateral", "inf. lateral")
            axis.annotate(
                words, (row["table_d"], row["realised_d"]), xytext=(5, -9), textcoords="offset points", fontsize=7
            )
    axis.set(xlabel="Cohen's d in the effects table", ylabel="Cohen's d of the simulated groups")
    axis.set_title("Simulated people: a check of the generator, not a finding about patients", fontsize=9)
    axis.legend()
    sheet.savefig(path, dpi=75)
