"""Networks of other libraries: ``load(path)`` gives one ready to run, ``convert(source, out)`` keeps it in our form.

Read are files of torch (state dicts, alone or within a dictionary) and of safetensors. Nothing in them is ever
unpickled but through torch's ``weights_only``. Which library a file is from is seen by its keys.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from torch import nn

from poise.convert import biggan_pytorch, files, mimicry, pretrained_biggan, studiogan
from poise.convert.checkpoint import Conversion, shown

__all__ = ["Conversion", "conversion", "convert", "load"]

LIBRARIES: dict[str, ModuleType] = {
    "BigGAN-PyTorch": biggan_pytorch,
    "pytorch-pretrained-biggan": pretrained_biggan,
    "PyTorch-StudioGAN": studiogan,
    "torch-mimicry": mimicry,
}


def conversion(path: str | Path) -> Conversion:
    """What a file of another library becomes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no weights can be read from it, or its keys are of no known library, or some are missing or extra.
    """
    path = Path(path)
    state = files.read_state(path)
    for library, module in LIBRARIES.items():
        if module.recognise(state):
            try:
                return module.convert(state)
            except ValueError as error:
                raise ValueError(f"{path} seems to be of {library}, but {error}") from None
            except (IndexError, TypeError, ZeroDivisionError):  # a size could not be read off a weight
                raise ValueError(f"{path} seems to be of {library}, but its weights have other shapes") from None
    raise ValueError(
        f"{path} holds {len(state)} tensors with the keys of no known library ({', '.join(LIBRARIES)}): {shown(state)}"
    )


def load(path: str | Path) -> nn.Module:
    """The network in a file, in eval mode, under the norm it was trained with: its outputs are the original's.

    Args:
        path: a file of one of the libraries, or one that ``convert`` wrote.

    Raises:
        As ``conversion``.
    """
    path = Path(path)
    found = files.read(path) if files.is_kept(path) else conversion(path)
    try:
        return found.build()
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the {found.architecture} {found.network} it should: {error}") from None


def convert(source: str | Path, out: str | Path) -> Path:
    """Write the network in ``source`` in our form; returns ``out``.

    ``out`` is a safetensors file of the network's state dict, as a run's checkpoints hold it: a normalized weight as
    ``parametrizations.weight.original`` with its u and v. The JSON file beside it, of the same name, holds what
    rebuilds the network: "architecture" and "options" of ``poise.models.create``, "network" ("generator" or
    "discriminator") and "norm" (null, or a name for ``poise.normalize``, put on the layers kept in that form).

    Raises:
        As ``conversion``, before anything is written; ValueError for another ending than .safetensors.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"out is {out}; its name must end in .safetensors: nearest {out.with_suffix('.safetensors')}")
    files.write(conversion(source), out)
    return out
