"""Files by local path or by Hugging Face hub id (``owner/name``, or ``owner/name@revision``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from synth.errors import UserError

HUB_ID = re.compile(r"^(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?$")
SAFE = ("*.safetensors", "*.json", "*.md")
PICKLED = ("*.pth", "*.pt", "*.bin", "*.json", "*.md")


def local_place(place: str | Path, patterns: Sequence[str] = SAFE) -> Path:
    """The file or folder ``place``, or, where there is none of that name, the hub repository's files, fetched.

    Raises:
        UserError: neither there nor a hub id, or the hub cannot be reached or has no such repository.
    """
    if Path(place).exists():
        return Path(place)
    match = HUB_ID.match(str(place))
    if not match:
        raise UserError(f"there is no file or folder '{place}', and it is no hub id such as owner/name")
    return _fetch(str(place), match["repo"], match["revision"], patterns)


def _fetch(place: str, repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # whatever the network, the hub or its client says
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"there is no file or folder '{place}' here, and the hub did not give it ({reason})") from error


def upload(folder: Path, repo: str, private: bool) -> str:
    """Put a folder's files into a hub repository, made if it is not there; returns its URL.

    The token is the one of ``hf auth login`` or HF_TOKEN. Raises UserError when the hub refuses.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=["*.safetensors", "*.json", "*.md"])
    except Exception as error:
        raise UserError(f"the hub did not take '{folder}' as {repo} ({' '.join(str(error).split())[:160]})") from error
    return str(url)
