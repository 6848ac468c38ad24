"""Records shapes and outputs of torch-mimicry's own networks: ``pip install torch-mimicry; python`` this file."""

from __future__ import annotations

import importlib
import json
import runpy
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
SHARED = runpy.run_path(str(HERE / "conftest.py"))
CLASSES = 3
LATENT_DIM = 5

NETWORKS = {
    "sngan": ("SNGAN", (32, 48, 64, 128), 0),
    "cgan_pd": ("CGANPD", (32, 128), CLASSES),
    "sagan": ("SAGAN", (32, 128), CLASSES),
}
"""module ↦ how its classes begin, resolutions, classes"""

WIDTHS = {("sngan", 32): (4, 2), ("cgan_pd", 32): (4, 2), ("sagan", 32): (16, 8), ("sagan", 128): (64, 64)}
"""(module, resolution) ↦ ngf and ndf, where they are not both 16"""


def record(network: Any, resolution: int, classes: int) -> dict[str, Any]:
    """Shapes of a network's state, and what it gives in eval mode when they are filled."""
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(SHARED["filled"](shapes))
    network.eval()
    is_generator = hasattr(network, "nz")
    n = 2 if is_generator else SHARED["LOGITS"]
    labels = [torch.arange(n) % classes] if classes else []
    inputs = SHARED["numbers"]("latents", [n, network.nz]) if is_generator else SHARED["images"](n, resolution)
    with torch.no_grad():
        output = network(inputs, *labels)
    return {"shapes": shapes, "output": SHARED["excerpt"](output)}


def main() -> None:
    cases = {}
    for module, (beginning, resolutions, classes) in NETWORKS.items():
        for resolution in resolutions:
            code = importlib.import_module(f"torch_mimicry.nets.{module}.{module}_{resolution}")
            ngf, ndf = WIDTHS.get((module, resolution), (16, 16))
            labels = {"num_classes": classes} if classes else {}
            generator = getattr(code, f"{beginning}Generator{resolution}")(nz=LATENT_DIM, ngf=ngf, **labels)
            discriminator = getattr(code, f"{beginning}Discriminator{resolution}")(ndf=ndf, **labels)
            cases[f"{module} generator {resolution}"] = record(generator, resolution, classes)
            cases[f"{module} discriminator {resolution}"] = record(discriminator, resolution, classes)
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(found)}" for case, found in cases.items())
    (HERE / "fixtures" / "mimicry.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
