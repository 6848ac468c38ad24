"""Extractors: the references' features, weights that work offline, one line where weights are missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from poise.metrics import EXTRACTORS, Extractor, Preprocessing, default_extractor, extractors, register_extractor
from poise.metrics.extractors import INCEPTION_FILE, extractor_named, inception_of


def images(n: int, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)


@pytest.fixture(scope="module")
def inception_reference() -> Any:
    """torch-fidelity's network with random weights."""
    room = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(room, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(room.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        net = room.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    return net


def test_inceptions_features_and_logits_are_torch_fidelitys(inception_reference: Any) -> None:
    made = inception_of(inception_reference.state_dict()).to()
    with torch.no_grad():
        expected = inception_reference(images(2))
    for ours, theirs in zip(made(images(2)), expected, strict=True):
        assert ours is not None
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_in_bfloat16_the_features_are_near(inception_reference: Any) -> None:
    made = inception_of(inception_reference.state_dict())
    full, half = (made.to(precision=precision)(images(2))[0] for precision in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert 0 < (half - full).norm() < 0.03 * full.norm()


def test_efficientnet_names_what_is_in_a_photograph() -> None:
    """A temple roof and a flower: classes 698 (palace) and 985 (daisy) of ImageNet are the first guesses."""
    sample_images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    extractor = EXTRACTORS.build("efficientnet-lite0").to()
    batch = torch.from_numpy(np.stack(sample_images)).permute(0, 3, 1, 2)[..., 100:527]
    features, logits = extractor(batch)
    assert features.shape == (2, 1280)
    assert logits is not None
    assert logits.argmax(1).tolist() == [698, 985]


def test_a_users_network_is_an_extractor_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "EXTRACTORS", type(EXTRACTORS)("extractor", dict(EXTRACTORS)))
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    register_extractor("my-net", network, Preprocessing("bilinear-antialias", 8))
    made = extractors.EXTRACTORS.build("my-net").to()
    features, logits = made(images(4))
    assert (features.shape, logits) == ((4, 5), None)
    assert made.figure("fid") == "fd_my_net"
    assert made.figure("precision") == "precision"
    with pytest.raises(ValueError, match="there is an extractor 'my-net' already"):
        register_extractor("my-net", network, Preprocessing("none", 8))


def test_other_weights_have_another_version() -> None:
    def version(seed: int) -> str:
        torch.manual_seed(seed)
        return Extractor("x", nn.Linear(2, 2), Preprocessing("none", None)).version

    assert version(0) == version(0) != version(1)


def test_only_inceptions_distance_is_called_fid() -> None:
    named = {name: Extractor(name, nn.Identity(), Preprocessing("none", 8)).figure("fid") for name in EXTRACTORS}
    assert named.pop("inception-v3") == "fid"
    assert all(figure.startswith("fd_") for figure in named.values())


@pytest.mark.parametrize("name", ["inception-v3", "clip"])
def test_missing_weights_and_no_network_are_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch_fidelity")

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="cannot be downloaded") as caught:
        EXTRACTORS.build(name)
    said = str(caught.value)
    assert str(tmp_path / "checkpoints") in said
    assert re.search(r"weights \S+\.pth? \(sha256 [0-9a-f]{8}", said)
    assert "\n" not in said


def test_damaged_and_absent_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / INCEPTION_FILE).write_bytes(b"half of it")
    with pytest.raises(ValueError, match="it is damaged; delete it"):
        EXTRACTORS.build("inception-v3")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        EXTRACTORS.build("inception-v3", path=str(tmp_path / "checkpoints" / INCEPTION_FILE))
    for extractor in ("inception-v3", "clip", "efficientnet-lite0"):
        with pytest.raises(ValueError, match="'nowhere', which is no file"):
            extractor_named(f"{extractor}:nowhere")
    with pytest.raises(ValueError, match="'digits' has no option 'path'"):
        extractor_named("digits:weights.pth")


def test_inception_is_the_default_where_its_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert default_extractor() == "efficientnet-lite0"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / INCEPTION_FILE).write_bytes(b"")
    assert default_extractor() == "inception-v3"
    monkeypatch.setattr(extractors, "_is_installed", lambda _: False)
    with pytest.raises(ValueError, match="pip install"):
        default_extractor()


FLAT = Extractor("flat", nn.Flatten(), Preprocessing("none", 16))
WRONG = {
    "unknown": (lambda: EXTRACTORS.build("inception"), "unknown extractor 'inception'; did you mean 'inception-v3'"),
    "precision": (
        lambda: FLAT.to(precision="fp8"),
        "precision is 'fp8'; allowed: 'fp32', 'bf16'",
    ),
    "resolution": (lambda: EXTRACTORS.build("digits", resolution=20), "resolution is 20; there are digits of 8"),
    "size": (lambda: FLAT.to()(images(1)), "32×32 pixels; this extractor takes 16×16"),
    "maps": (
        lambda: Extractor("maps", nn.Identity(), Preprocessing("none", None)).to()(images(1)),
        r"maps gives features of shape \(1, 3, 32, 32\)",
    ),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
def test_mistakes_are_one_line(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()
