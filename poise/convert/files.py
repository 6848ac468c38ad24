"""Files of weights: state dicts read from any library's, and a converted network in our own form.

Our own form is a safetensors file of the network's state dict and a JSON file of the same name with what rebuilds it:

    {"architecture": "biggan", "options": {"resolution": 128, …}, "network": "generator", "norm": "sn" or null}
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from poise.convert.checkpoint import STEP, Conversion, State
from poise.models import MODELS
from poise.models.network import known_choice

ORIGINAL = ".parametrizations.weight.original"
PLAYERS = ("generator", "discriminator")
VECTORS = (f".{STEP}.u_out", f".{STEP}.v_out")


def read_state(path: Path) -> State:
    """The state dict in a file of torch or safetensors, taken out of dictionaries and without "module." before keys.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read as weights alone, or holds no state dict, or several.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give a checkpoint of torch or safetensors")
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"  # after the length of its header
    try:
        found = load_file(path) if is_safetensors else _load(path)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than weights, or is damaged; only weights are read, as torch.save keeps a state_dict() "
            f"({str(error).partition('.')[0]})"
        ) from None
    except Exception as error:  # what random bytes lead a reader of pickles to cannot be listed
        raise ValueError(f"{path} cannot be read as a file of torch or safetensors: {error}") from None
    state = _innermost(found, path)
    if all(key.startswith("module.") for key in state):  # left by DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _load(path: Path) -> Any:
    """A file of torch: tensors, containers, and numbers, of numpy as well, which a best FID is apt to be."""
    scalar = np.float64().__reduce__()[0]
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # before and since numpy 2
    numbers: list[Any] = [*named, np.dtype, *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64"))]
    with torch.serialization.safe_globals(numbers):
        return torch.load(path, map_location="cpu", weights_only=True)


def _innermost(found: Any, path: Path) -> State:
    """The one state dict in a dictionary of things, which "state_dict" is if it is there."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected: a state dict, alone or in a dictionary")
    if _is_state(found):
        return dict(found)
    inner = {str(key): value for key, value in found.items() if isinstance(value, Mapping) and _is_state(value)}
    if "state_dict" in inner or len(inner) == 1:
        return dict(inner.get("state_dict") or next(iter(inner.values())))
    if inner:
        raise ValueError(f"{path} holds several state dicts: {', '.join(inner)}; save the one that is wanted alone")
    raise ValueError(f"{path} holds no state dict; its keys: {', '.join(map(str, list(found)[:5])) or 'none'}")


def _is_state(found: Mapping[Any, Any]) -> bool:
    return bool(found) and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items())


def write(conversion: Conversion, out: Path) -> None:
    """Write the network and, beside it, its description; each replaces a file of that name at once."""
    out.parent.mkdir(parents=True, exist_ok=True)
    # Cloned: two names of one tensor are two tensors in the file.
    state = {key: value.detach().cpu().contiguous().clone() for key, value in conversion.build().state_dict().items()}
    description = {
        "architecture": conversion.architecture,
        "options": conversion.options,
        "network": conversion.network,
        "norm": conversion.norm,
    }
    weights, words = (path.with_name(f".{path.name}.unfinished") for path in (out, description_of(out)))
    save_file(state, weights)
    words.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    weights.replace(out)
    words.replace(description_of(out))


def description_of(path: Path) -> Path:
    """The JSON file beside a file of weights."""
    return path.with_suffix(".json")


def is_kept(path: Path) -> bool:
    """Whether a file is one of ours: a description is beside it."""
    return path.suffix == ".safetensors" and description_of(path).is_file()


def read(path: Path) -> Conversion:
    """What ``write`` wrote. Raises ValueError if the description is damaged or of another network."""
    words = description_of(path)
    try:
        found = json.loads(words.read_text(encoding="utf-8"))
        architecture, network, norm = (found[key] for key in ("architecture", "network", "norm"))
        options = dict(found["options"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{words} does not describe a network; convert its checkpoint again") from None
    MODELS.check(architecture, options)
    known_choice(network, PLAYERS, "network")
    state = read_state(path)
    layers = [key.removesuffix(ORIGINAL) for key in state if key.endswith(ORIGINAL)]
    vectors = {}
    for layer in layers:
        try:
            state[f"{layer}.weight"] = state.pop(layer + ORIGINAL)
            u, v = (state.pop(layer + vector) for vector in VECTORS)
        except KeyError as error:
            raise ValueError(f"{path} has no {error.args[0]}; convert its checkpoint again") from None
        vectors[layer] = (u, v)
    return Conversion(architecture, options, network, norm, state, vectors)
