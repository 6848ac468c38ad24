"""Records shapes and outputs of BigGAN-PyTorch's networks: ``python make_biggan_fixtures.py FOLDER_OF_ITS_CODE``."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
SHARED = runpy.run_path(str(HERE / "conftest.py"))
CLASSES = 3
COMMON = {"n_classes": CLASSES, "skip_init": True}
SPLIT = {"G_shared": True, "hier": True, "shared_dim": 6}

GENERATORS: dict[str, dict[str, Any]] = {
    "generator 32": {"resolution": 32, "G_ch": 4, "dim_z": 12, "G_attn": "16", **SPLIT},
    "generator 64": {"resolution": 64, "G_ch": 4, "dim_z": 10, "G_attn": "0", "mybn": True, **SPLIT},
    "generator 128": {"resolution": 128, "G_ch": 8, "dim_z": 12, "num_G_SVs": 2, **SPLIT},
    "generator whole latent": {"resolution": 32, "G_ch": 2, "dim_z": 5, "G_attn": "0", **SPLIT, "hier": False},
    "generator gains per class": {"resolution": 32, "G_ch": 2, "dim_z": 5, "G_attn": "0", "G_shared": False},
    "generator plain weights": {"resolution": 32, "G_ch": 2, "dim_z": 8, "G_attn": "0", "G_param": "none", **SPLIT},
}
DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "discriminator 32": {"resolution": 32, "D_ch": 4, "D_attn": "0"},
    "discriminator 64": {"resolution": 64, "D_ch": 4, "D_attn": "16"},
    "discriminator 128": {"resolution": 128, "D_ch": 8},
}
DEEP_GENERATORS: dict[str, dict[str, Any]] = {
    "deep generator 128": {"resolution": 128, "G_ch": 8, "dim_z": 5, **SPLIT},
    "deep generator 256": {"resolution": 256, "G_ch": 8, "dim_z": 5, "G_attn": "32", **SPLIT},
}
DEEP_DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "deep discriminator 128": {"resolution": 128, "D_ch": 8},
    "deep discriminator 256": {"resolution": 256, "D_ch": 8, "D_attn": "32"},
}


def record(network: Any, is_generator: bool, resolution: int) -> dict[str, Any]:
    """Shapes of a network's state, and what it gives in eval mode when they are filled."""
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(SHARED["filled"](shapes))
    network.eval()
    labels = torch.arange(2 if is_generator else SHARED["LOGITS"]) % CLASSES
    with torch.no_grad():
        if is_generator:
            output = network(SHARED["numbers"]("latents", [2, network.dim_z]), network.shared(labels))
        else:
            output = network(SHARED["images"](len(labels), resolution), labels)
    return {"shapes": shapes, "output": SHARED["excerpt"](output)}


def main(folder: str) -> None:
    sys.path.insert(0, folder)
    cases = {}
    for module, generators, discriminators in (
        ("BigGAN", GENERATORS, DISCRIMINATORS),
        ("BigGANdeep", DEEP_GENERATORS, DEEP_DISCRIMINATORS),
    ):
        code: Any = __import__(module)
        for case, options in generators.items():
            cases[case] = record(code.Generator(no_optim=True, **COMMON, **options), True, options["resolution"])
        for case, options in discriminators.items():
            cases[case] = record(code.Discriminator(**COMMON, **options), False, options["resolution"])
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(found)}" for case, found in cases.items())
    (HERE / "fixtures" / "biggan_pytorch.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
