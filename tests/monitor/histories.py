"""Synthetic trainings as records: a healthy one, and what changes in it when something fails."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

Record = dict[str, Any]
LAYERS = ("G.linear", "G.conv", "D.conv", "D.linear")
ONSET, LENGTH = 60, 120  # records


def healthy(seed: int = 0) -> list[Record]:
    """A training at equilibrium: every signal varies by some percent around its value."""
    draw = random.Random(seed)

    def about(value: float, spread: float = 0.1) -> float:
        return value * math.exp(draw.gauss(0, spread))

    records = []
    for place in range(LENGTH):
        real, fake = draw.gauss(0.8, 0.15), draw.gauss(-0.7, 0.15)
        records.append(
            {
                "step": 10 * (place + 1),
                "d_loss": about(1.0),
                "g_loss": about(1.2),
                **{"real_logit": real, "fake_logit": fake, "logit_gap": real - fake, "ranking": 0.85},
                **{"real_logit_std": about(1.0), "fake_logit_std": about(0.9), "saturation": 0.02},
                **{"diversity": about(0.95, 0.03), "neighbours": about(0.9, 0.05), "coverage": about(1.2, 0.05)},
                **{"feature_diversity": about(1.0, 0.05), "largest_real": 1.0, "copies": 0.0},
                "gradient_norm": {layer: about(0.5, 0.2) for layer in LAYERS},
                "update_ratio": {layer: about(0.005, 0.2) for layer in LAYERS},
                "sigma": {layer: 1.5 * (1 + place / LENGTH) * about(1, 0.02) for layer in LAYERS},
                "stable_rank": {layer: about(12 / (1 + place / LENGTH), 0.02) for layer in LAYERS},
                "hidden_variance": {layer: about(0.8) for layer in LAYERS},
            }
        )
    return records


def _layer(signal: str, layer: str, change: Callable[[float, int], float]) -> Callable[[Record, int], None]:
    def apply(record: Record, since: int) -> None:
        record[signal][layer] = change(record[signal][layer], since)

    return apply


def _scalar(**changes: Callable[[float, int], float]) -> Callable[[Record, int], None]:
    def apply(record: Record, since: int) -> None:
        for signal, change in changes.items():
            record[signal] = change(record[signal], since)

    return apply


def _all(signal: str, factor: float) -> Callable[[Record, int], None]:
    def apply(record: Record, since: int) -> None:
        for layer in record[signal]:
            record[signal][layer] *= factor

    return apply


def _steps_grow(record: Record, since: int) -> None:
    """To less than three times as far, which a single look does not tell from chance."""
    for layer in record["update_ratio"]:
        record["update_ratio"][layer] *= min(2.2, 1.03**since)


def _together(record: Record, since: int) -> None:
    swing = 15 * math.sin(2 * math.pi * since / 10)
    record["real_logit"], record["fake_logit"] = record["real_logit"] + swing, record["fake_logit"] + swing


def _won(record: Record, since: int) -> None:
    record |= {"ranking": 1.0, "saturation": min(1.0, 0.1 * since), "d_loss": 0.001}
    record["real_logit"] += since
    record["logit_gap"] = record["real_logit"] - record["fake_logit"]
    for layer in ("D.conv", "D.linear"):
        record["gradient_norm"][layer] *= 1e-3


PATTERNS: dict[str, tuple[str, Callable[[Record, int], None]]] = {
    "σ of a layer grows by a tenth each time": (
        "spectral-explosion",
        _layer("sigma", "G.conv", lambda sigma, since: sigma * 1.1**since),
    ),
    "σ of a layer is beyond all": ("spectral-explosion", _layer("sigma", "D.conv", lambda *_: 1e5)),
    "a layer is left with one direction": (
        "spectral-collapse",
        _layer("stable_rank", "D.conv", lambda rank, since: 1 + (rank - 1) * 0.8**since),
    ),
    "gradients thirtyfold": ("exploding-gradients", _all("gradient_norm", 30)),
    "gradients beyond all": ("exploding-gradients", _all("gradient_norm", 1e6)),
    "the weights of both take great steps": ("exploding-gradients", _all("update_ratio", 10)),
    "the weights of both take ever longer steps": ("exploding-gradients", _steps_grow),
    "no gradient": ("vanishing-gradients", _all("gradient_norm", 0.0)),
    "a layer without gradient": ("vanishing-gradients", _layer("gradient_norm", "G.linear", lambda *_: 1e-4)),
    "a layer that gives the same to all": (
        "vanishing-gradients",
        _layer("hidden_variance", "D.conv", lambda variance, _: variance * 1e-5),
    ),
    "D tells all": ("discriminator-overpowers", _won),
    "D tells all by far": ("discriminator-overpowers", _scalar(ranking=lambda *_: 0.99, logit_gap=lambda *_: 5.0)),
    "fakes are where D is wrong": ("mode-collapse", _scalar(ranking=lambda *_: 0.02, diversity=lambda *_: 0.1)),
    "D's logits differ by nothing": (
        "discriminator-blind",
        _scalar(**dict.fromkeys(("real_logit_std", "fake_logit_std", "logit_gap"), lambda *_: 1e-4)),
    ),
    "D says the same of all": (
        "discriminator-blind",
        _scalar(
            ranking=lambda *_: 0.5,
            real_logit_std=lambda *_: 1e-3,
            fake_logit_std=lambda *_: 1e-3,
            real_logit=lambda *_: 0.1,
            fake_logit=lambda *_: 0.1,
            logit_gap=lambda *_: 0.0,
        ),
    ),
    "fakes become alike": ("mode-collapse", _scalar(diversity=lambda d, since: d * 0.9**since)),
    "fakes become alike slowly": ("mode-collapse", _scalar(diversity=lambda d, since: d * max(0.85, 0.99**since))),
    "fakes become alike, and real samples are left behind, a little": (
        "mode-collapse",
        _scalar(
            diversity=lambda d, since: d * max(0.9, 0.99**since), coverage=lambda c, since: c * min(1.7, 1.03**since)
        ),
    ),
    "the data repeat themselves": ("mode-collapse", _scalar(copies=lambda *_: 0.3)),
    "G repeats itself": ("mode-collapse", _scalar(neighbours=lambda *_: 0.01)),
    "real samples without fakes near": ("mode-collapse", _scalar(coverage=lambda c, since: c * 1.1**since)),
    "losses swing widely": (
        "oscillating",
        _scalar(d_loss=lambda loss, since: loss + 2 * math.sin(2 * math.pi * since / 9)),
    ),
    "both logits circle": ("oscillating", _together),
    "D is right and wrong by turns": (
        "oscillating",
        _scalar(ranking=lambda _, since: 0.5 + 0.45 * math.sin(2 * math.pi * since / 15)),
    ),
    "a loss is NaN": ("not-finite", _scalar(g_loss=lambda *_: math.nan)),
    "a gradient is infinite": ("not-finite", _layer("gradient_norm", "D.linear", lambda *_: math.inf)),
}


def pattern(name: str, seed: int = 0) -> list[Record]:
    """The healthy training up to ``ONSET`` and the failure from there."""
    records = healthy(seed)
    for since, record in enumerate(records[ONSET:]):
        PATTERNS[name][1](record, since)
    return records
