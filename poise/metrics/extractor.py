"""An extractor: the network in whose features images are compared, its preprocessing, weights and precision pinned.

A figure is only comparable with another of the same extractor, weights and preprocessing; all three stand beside it.
FID is the Fréchet distance in InceptionV3's features alone; in any other's it is called ``fd_NAME``.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from poise.metrics import weights
from poise.metrics.preprocessing import Preprocessing

PRECISIONS = ("fp32", "bf16")
INCEPTION = "inception-v3"
OWN_NAMES = {
    "fid": "fd_{}",
    "kid": "kd_{}",
    "is": "score_{}",
    "fid_infinity": "fd_{}_infinity",
    "intra_fid": "intra_fd_{}",
}
"""names of measures that belong to InceptionV3, in any other extractor's features"""


class Extractor:
    """uint8 images (n, 3, H, W) ↦ float32 features (n, dim) and, of a classifier, logits (n, classes), else None.

    Args:
        name: as it stands in figures.
        module: preprocessed images ↦ features (n, dim) or (features, logits).
        preprocessing: what is done before.
        version: which weights, as a hash; taken from the module's tensors if left out.

    Raises:
        ValueError: on use, images that the preprocessing or the module does not take.
    """

    def __init__(self, name: str, module: nn.Module, preprocessing: Preprocessing, version: str = "") -> None:
        self.name, self.preprocessing = name, preprocessing
        self.version = version or weights.state_hash(module)[:16]
        self.module = module.eval().requires_grad_(False)
        self.precision = "fp32"
        self.device = torch.device("cpu")
        self.in_bfloat16 = False

    def to(self, device: str | torch.device = "cpu", precision: str = "fp32") -> Extractor:
        """A copy on a device, its convolutions channels-last, computing in "fp32" or "bf16".

        With "bf16" a part of the module named ``trunk`` is kept in bfloat16; a module without one runs under autocast.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; allowed: {', '.join(map(repr, PRECISIONS))}")
        moved = copy.copy(self)
        moved.device, moved.precision, moved.in_bfloat16 = torch.device(device), precision, False
        module = copy.deepcopy(self.module).to(moved.device)
        moved.module = module.to(memory_format=torch.channels_last)
        trunk = getattr(module, "trunk", None)
        if precision == "bf16" and isinstance(trunk, nn.Module):
            trunk.to(torch.bfloat16)
            moved.in_bfloat16 = True
        return moved

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        prepared = self.preprocessing(images.to(self.device, non_blocking=True))
        prepared = prepared.contiguous(memory_format=torch.channels_last)
        if self.in_bfloat16:
            prepared = prepared.bfloat16()
        autocast = self.precision == "bf16" and not self.in_bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            found = self.module(prepared)
        features, logits = found if isinstance(found, tuple) else (found, None)
        if features.ndim != 2 or len(features) != len(images):
            raise ValueError(
                f"{self.name} gives features of shape {tuple(features.shape)} of {len(images)} images; needed: (n, dim)"
            )
        return features.float(), None if logits is None else logits.float()

    def describe(self) -> dict[str, str]:
        """What must be equal for two figures to be comparable."""
        return {
            "extractor": self.name,
            "weights": self.version,
            "preprocessing": str(self.preprocessing),
            "precision": self.precision,
        }

    def figure(self, measure: str) -> str:
        """The name of a measure in these features: "fid" is ``fid`` in InceptionV3's alone, else ``fd_NAME`` …"""
        if self.name == INCEPTION or measure not in OWN_NAMES:
            return measure
        return OWN_NAMES[measure].format(self.name.replace("-", "_"))
