"""Where figures go while a run goes: CSV always, TensorBoard, and W&B or MLflow when asked for and installed."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synth.errors import UserError, near
from synth.storage import write_atomically

USUAL = ("csv", "tensorboard")
PACKAGES = {"csv": "csv", "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
FOLDER, VERSION = "log", 0


def check_loggers(names: Sequence[str]) -> None:
    """Raise UserError for a name that is no logger, or one asked for that is not installed."""
    for name in names:
        if name not in PACKAGES:
            raise UserError(
                f"--loggers names '{name}'; expected some of {', '.join(PACKAGES)}; near: {near(name, PACKAGES)}"
            )
        if name not in USUAL and not installed(name):
            raise UserError(
                f"--loggers {name}: the package {PACKAGES[name]} is not installed; pip install {PACKAGES[name]}"
            )


def installed(name: str) -> bool:
    """Whether a logger's package is there."""
    return importlib.util.find_spec(PACKAGES[name]) is not None


def make_loggers(names: Sequence[str], out: Path, step: int, first: bool = True) -> list[Any]:
    """Lightning's loggers, CSV first. A run that goes on at ``step`` goes on in the same curves.

    Rows that a killed run had written after its last checkpoint are dropped: they come again. Only the ``first`` of the
    processes that train together writes.
    """
    from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

    made: list[Any] = [CSVLogger(out, name=FOLDER, version=VERSION)]
    if not first:
        return made
    if step:
        _go_on(made[0], Path(made[0].log_dir) / "metrics.csv", step)
    if "tensorboard" in names and installed("tensorboard"):
        made.append(TensorBoardLogger(out, name=FOLDER, version=VERSION, purge_step=step + 1 if step else None))
    if "wandb" in names:
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        made.append(WandbLogger(out.name, save_dir=out / FOLDER, project="brainloom", id=run_id(out), resume="allow"))
    if "mlflow" in names:
        kept = out / FOLDER / "mlflow_run"
        known = kept.read_text() if kept.is_file() else None
        kept.parent.mkdir(parents=True, exist_ok=True)
        place = f"sqlite:///{(out / FOLDER).resolve() / 'mlflow.db'}"  # MLflow 3 takes no folder of files any more
        tracking = os.environ.get("MLFLOW_TRACKING_URI", place)
        runs = MLFlowLogger("brainloom", run_name=out.name, tracking_uri=tracking, run_id=known)
        if known is None:
            write_atomically(kept, str(runs.run_id))
        made.append(runs)
    return made


def run_id(out: Path) -> str:
    """The same for the same folder, so that a killed run goes on in the same W&B run."""
    return hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]


def rewound(path: Path, step: int) -> str:
    """The text of a curve up to ``step`` and no further, without a row that was cut off; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        whole = [row for row in reader if None not in row.values() and row["step"].isdigit()]
    text = io.StringIO()
    writer = csv.DictWriter(text, reader.fieldnames or [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for row in whole if int(row["step"]) <= step)
    return text.getvalue()


def _go_on(logger: Any, path: Path, step: int) -> None:
    """Let the logger append to what was kept. It deletes an earlier file when it opens: that one steps aside, and a
    second kill in between loses nothing."""
    aside = path.with_suffix(".kept")
    if path.is_file():
        path.replace(aside)
    text = rewound(aside, step)
    writer = logger.experiment
    if text:
        write_atomically(path, text)
        writer.metrics_keys = next(csv.reader([text.partition("\n")[0]]))
    aside.unlink(missing_ok=True)
