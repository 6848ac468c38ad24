"""Records shapes and outputs of PyTorch-StudioGAN's networks: ``python make_studiogan_fixtures.py ITS_SRC_FOLDER``."""

from __future__ import annotations

import contextlib
import json
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
SHARED = runpy.run_path(str(HERE / "conftest.py"))
CLASSES = 3

GENERATORS: dict[str, dict[str, Any]] = {
    "big generator 32": {"backbone": "big_resnet", "size": 32, "width": 4, "attention": [2], "sn": True},
    "big generator 64": {"backbone": "big_resnet", "size": 64, "width": 2, "sn": True},
    "big generator 128": {"backbone": "big_resnet", "size": 128, "width": 8, "attention": [4], "sn": True},
    "big generator without labels": {"backbone": "big_resnet", "size": 32, "width": 2, "labels": False, "sn": True},
    "sngan generator 32": {"backbone": "resnet", "size": 32, "width": 2},
    "sngan generator 64": {"backbone": "resnet", "size": 64, "width": 2},
    "sngan generator without labels": {"backbone": "resnet", "size": 32, "width": 2, "labels": False},
}
DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "big discriminator 32": {"backbone": "big_resnet", "size": 32, "width": 8, "attention": [1]},
    "big discriminator 128": {"backbone": "big_resnet", "size": 128, "width": 8, "attention": [1]},
    "sngan discriminator 32": {"backbone": "resnet", "size": 32, "width": 8},
    "sngan discriminator 64": {"backbone": "resnet", "size": 64, "width": 4},
    "sngan discriminator without labels": {"backbone": "resnet", "size": 32, "width": 8, "labels": False},
}


def modules(ops: Any, case: dict[str, Any]) -> Any:
    """What its configuration chooses for such a network."""
    normalized, conditional = case.get("sn", False), case.get("labels", True)
    by_condition = case["backbone"] == "big_resnet" or conditional
    return types.SimpleNamespace(
        g_conv2d=ops.snconv2d if normalized else ops.conv2d,
        g_linear=ops.snlinear if normalized else ops.linear,
        g_bn=ops.ConditionalBatchNorm2d if by_condition else ops.batchnorm_2d,
        g_act_fn=torch.nn.ReLU(inplace=True),
        d_conv2d=ops.snconv2d,
        d_linear=ops.snlinear,
        d_embedding=ops.sn_embedding,
        d_act_fn=torch.nn.ReLU(inplace=True),
    )


def record(code: Any, ops: Any, case: dict[str, Any], is_generator: bool) -> dict[str, Any]:
    """Shapes of a network's state, and what it gives in eval mode when they are filled."""
    conditional = case.get("labels", True)
    common = {
        "img_size": case["size"],
        "apply_attn": "attention" in case,
        "num_classes": CLASSES,
        "mixed_precision": False,
        "MODULES": modules(ops, case),
        "MODEL": types.SimpleNamespace(info_type="N/A", g_info_injection="N/A"),
    }
    blocks = {32: 3, 64: 4, 128: 5}[case["size"]]
    if is_generator:
        z_dim = 3 * (blocks + 1) if case["backbone"] == "big_resnet" else 7
        network = code.Generator(
            z_dim=z_dim,
            g_shared_dim=6,
            g_conv_dim=case["width"],
            attn_g_loc=case.get("attention", []),
            g_cond_mtd="cBN" if conditional else "W/O",
            g_init="ortho",
            g_depth=None,
            **common,
        )
    else:
        network = code.Discriminator(
            d_conv_dim=case["width"],
            apply_d_sn=True,
            attn_d_loc=case.get("attention", []),
            d_cond_mtd="PD" if conditional else "W/O",
            aux_cls_type="W/O",
            d_embed_dim=None,
            normalize_d_embed=False,
            d_init="ortho",
            d_depth=None,
            **common,
        )
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(SHARED["filled"](shapes))
    network.eval()
    labels = torch.arange(2 if is_generator else SHARED["LOGITS"]) % CLASSES
    with torch.no_grad():
        if is_generator:
            output = network(SHARED["numbers"]("latents", [2, z_dim]), labels, eval=True)
        else:
            output = network(SHARED["images"](len(labels), case["size"]), labels, eval=True)["adv_output"]
    return {"shapes": shapes, "output": SHARED["excerpt"](output)}


def main(folder: str) -> None:
    sys.path.insert(0, folder)
    misc: Any = types.ModuleType("utils.misc")  # in its place: it needs much, of which the networks use this alone
    misc.dummy_context_mgr = contextlib.nullcontext
    sys.modules["utils.misc"] = misc
    ops: Any = __import__("utils.ops", fromlist=["ops"])
    ops_package: Any = sys.modules["utils"]
    ops_package.misc = misc
    cases = {}
    for is_generator, table in ((True, GENERATORS), (False, DISCRIMINATORS)):
        for name, case in table.items():
            code: Any = __import__(f"models.{case['backbone']}", fromlist=["code"])
            cases[name] = record(code, ops, case, is_generator)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in cases.items())
    (HERE / "fixtures" / "studiogan.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
