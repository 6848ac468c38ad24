"""Records shapes and outputs of pytorch-pretrained-biggan's network: ``python make_pretrained_fixtures.py FOLDER``.

The folder is the package's; of its files only model.py and config.py are needed.
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

HERE = Path(__file__).parent
SHARED = runpy.run_path(str(HERE / "conftest.py"))
CLASSES, LATENT_DIM, THRESHOLDS = 3, 6, 3

LAYERS = {  # of its published configurations
    128: [(16, 16), (16, 16), (16, 16), (16, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1)],
    256: [(16, 16), (16, 16), (16, 16), (16, 8), (8, 8), (8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1)],
}


def record(code: Any, resolution: int, width: int) -> dict[str, Any]:
    """Shapes of a network's state, and what it gives in eval mode when they are filled, by truncation."""
    config = code.config.BigGANConfig(
        output_dim=resolution,
        z_dim=LATENT_DIM,
        channel_width=width,
        num_classes=CLASSES,
        layers=[(index % 2 == 1, *sizes) for index, sizes in enumerate(LAYERS[resolution])],
        n_stats=THRESHOLDS,
    )
    network = code.model.BigGAN(config)
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(SHARED["filled"](shapes))
    network.eval()
    labels = F.one_hot(torch.arange(2) % CLASSES, CLASSES).float()
    z = SHARED["numbers"]("latents", [2, LATENT_DIM])
    with torch.no_grad():
        outputs = {f"{t}": SHARED["excerpt"](network(z, labels, t)) for t in (0.5, 1.0)}
    return {"shapes": shapes, "outputs": outputs}


def main(folder: str) -> None:
    package = types.ModuleType("pretrained")  # without its __init__, which needs what downloads
    package.__path__ = [folder]
    sys.modules |= {"pretrained": package, "pretrained.file_utils": types.ModuleType("file_utils")}
    sys.modules["pretrained.file_utils"].__dict__["cached_path"] = None
    for name in ("config", "model"):
        setattr(package, name, importlib.import_module(f"pretrained.{name}"))
    cases = {f"generator {resolution}": record(package, resolution, 8) for resolution in LAYERS}
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(found)}" for case, found in cases.items())
    (HERE / "fixtures" / "pretrained_biggan.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
