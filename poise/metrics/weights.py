"""Finding an extractor's weights: a given file, torch.hub's cache, then the network; else one line on what is missing.

Every file is hashed, and the hash is part of the figure: two files of one name have been two networks before.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch


def checkpoint_path(name: str) -> Path:
    """Where torch.hub keeps a file of that name."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def obtained(name: str, url: str, sha256: str, path: str = "", download: bool = True) -> Path:
    """The file of weights.

    Args:
        name: its name in torch.hub's cache. url: where it is published. sha256: hash, or as many digits as are known.
        path: a file to take instead, any network of the same kind.
        download: try the network where it is not there.

    Raises:
        ValueError: a given path that is not there, a cached file of another hash, or none and no network.
    """
    if path:
        given = Path(path).expanduser()
        if not given.is_file():
            raise ValueError(f"path is {path!r}, which is no file; give the file {name}")
        return given
    kept = checkpoint_path(name)
    if not kept.is_file() and download:
        with contextlib.suppress(URLError, OSError, RuntimeError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.redirect_stdout(sys.stderr):
                torch.hub.download_url_to_file(url, str(kept), hash_prefix=sha256)
    if not kept.is_file():
        raise ValueError(
            f"the weights {name} (sha256 {sha256}…) are not here and cannot be downloaded; put the file from {url} "
            f"into {kept.parent}, or give the file after the extractor's name and a colon"
        )
    found = file_hash(kept)
    if not found.startswith(sha256):
        raise ValueError(f"{kept} has sha256 {found[:16]}…, not {sha256[:16]}…: it is damaged; delete it")
    return kept


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_hash(module: torch.nn.Module) -> str:
    """SHA-256 of all tensors of a module's state, by name: for networks that come from no file."""
    told = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        told.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        told.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return told.hexdigest()


def tensors(path: Path) -> dict[str, Any]:
    """A file's state dict, read without running anything in it. Raises ValueError where it is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what random bytes lead a reader of pickles to cannot be listed
        raise ValueError(f"{path} cannot be read as weights: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}; expected: a state dict")
    return state


def as_file(state: dict[str, Any]) -> io.BytesIO:
    """A state dict as an open file, for constructors that only read files, and unpickle whatever is in them."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
