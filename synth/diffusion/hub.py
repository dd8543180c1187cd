"""Folders of weights on the Hugging Face hub, fetched once and kept in its cache."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from synth.errors import UserError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WANTED = ["*.json", "*.safetensors", "models/*", "LICENSE*"]


def is_hub_id(place: Path) -> bool:
    """Whether a path that is not there reads as ``owner/name``; not if a folder ``owner`` is here, as then it is a slip."""
    return not place.exists() and not place.parent.exists() and HUB_ID.fullmatch(place.as_posix()) is not None


def fetched(place: Path) -> Path:
    """A local folder for a hub id, from the network or from the hub's cache; any other path as it is.

    Raises:
        UserError: the hub has no such repository, or it cannot be reached and the cache does not hold it.
    """
    if not is_hub_id(place):
        return place
    try:
        return _snapshot(place.as_posix())
    except Exception as error:  # of the hub's client or of whatever carries it
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"there is no folder '{place}', and as an id of the Hugging Face hub it could not be fetched ({reason}); "
            "mend the name, go online, or give the folder of a download"
        ) from error


@lru_cache  # a recipe is asked for several times in a run, the hub once
def _snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=WANTED))
