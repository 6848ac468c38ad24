"""Stage 1 of the monitor's benchmark: one run from its setting, with its fault, to what was observed and the truth."""

from __future__ import annotations

import math
import os
import time
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from faults_injected import Fault, Game
from faults_settings import Case, Setting
from faults_truth import IMAGES, POINTS, judge, real_batch
from torch import Tensor, nn

import poise
from poise.losses import LOSSES
from poise.models import create
from poise.norms import weight_penalty
from poise.penalties import PENALTIES

JUDGEMENTS = {"ring": 40, "grid": 40, "digits": 20}
"""of a run, evenly"""


def networks(setting: Setting) -> tuple[nn.Module, nn.Module]:
    """The pair; the discriminator may be deeper than the generator."""
    if setting.data == "digits":
        return create("sngan-cnn", resolution=16, width=setting.width, latent_dim=64, norm=dict(setting.norm))
    generator, _ = create("mlp", width=setting.width, depth=2, latent_dim=16)
    activation = setting.activation
    _, discriminator = create(
        "mlp", width=setting.width, depth=setting.depth, activation=activation, norm=dict(setting.norm)
    )
    return generator, discriminator


def run(case: Case, seed: int, folder: Path) -> dict[str, Any]:
    """Train a case with a seed: what was observed, the truth, and the verdicts as they stood.

    ``folder`` keeps what was trained beforehand.
    """
    torch.manual_seed(seed)
    setting = case.setting
    generator, discriminator = networks(setting)
    if setting.d_gain != 1:
        with torch.no_grad():
            for weight in discriminator.parameters():
                weight.mul_(setting.d_gain)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "G": torch.optim.Adam(generator.parameters(), setting.g_lr, (setting.beta1, setting.beta2), fused=True),
        "D": torch.optim.Adam(discriminator.parameters(), setting.d_lr, (setting.beta1, setting.beta2), fused=True),
    }
    game = Game(generator, discriminator, optimizers, torch.Generator().manual_seed(seed))
    if setting.warm:
        warm_up(game, setting, folder)
    monitor = poise.Monitor(generator=generator, discriminator=discriminator, every=setting.observe_every)
    started, watching = time.process_time(), 0.0
    truth, records, verdicts = [], [], []
    not_finite_at = None
    none = Fault()
    fault = case.fault()
    onset = round(case.onset * setting.steps)
    for step in range(1, setting.steps + 1):
        game.step = step
        signals = train_step(game, setting, fault if step > onset else none)
        if not_finite_at is None and not math.isfinite(float(signals["d_loss"] + signals["g_loss"])):
            not_finite_at = step
        if step % setting.observe_every == 0:
            before = time.process_time()
            record = monitor.observe(step, None, **signals)
            watching += time.process_time() - before
            records.append({"step": step, **record})
            verdicts.append((step, monitor.verdict.name))
        if step % (setting.steps // JUDGEMENTS[setting.data]) == 0:
            truth.append(asdict(judge(setting.data, step, samples(game, setting))))
        if not_finite_at is not None and step >= not_finite_at + 3 * setting.observe_every:
            break  # no number will ever come back
    return {
        "case": case.name,
        "identity": case.identity,
        "seed": seed,
        "data": setting.data,
        "steps": setting.steps,
        "not_finite_at": not_finite_at,
        "truth": truth,
        "verdicts": verdicts,
        "records": records,
        "last": asdict(monitor.verdict),
        "seconds": round(time.process_time() - started, 2),
        "watching": round(watching, 2),
    }


def warm_up(game: Game, setting: Setting, folder: Path) -> None:
    """Train for ``setting.warm`` steps with no fault, or take the result of doing so before from ``folder``."""
    same = replace(setting, steps=0, observe_every=0)
    path = folder / f"warm-{zlib.crc32(repr(same).encode()):08x}.pt"
    parts = {"G": game.generator, "D": game.discriminator}
    if path.exists():
        kept = torch.load(path, weights_only=True)
        for player, network in parts.items():
            network.load_state_dict(kept[player])
            game.optimizers[player].load_state_dict(kept[f"{player}-optimizer"])
        return
    before = replace(game, draw=torch.Generator().manual_seed(0))  # the run's own draws are the same either way
    for step in range(1, setting.warm + 1):
        before.step = step + 10_000  # other images than the run's
        train_step(before, setting, Fault())
    kept = {player: network.state_dict() for player, network in parts.items()}
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save({**kept, **{f"{p}-optimizer": o.state_dict() for p, o in game.optimizers.items()}}, unfinished)
    unfinished.replace(path)


def train_step(game: Game, setting: Setting, fault: Fault) -> dict[str, Tensor]:
    """``n_dis`` updates of D and one of G, by the losses of the library; the last batch and its logits."""
    loss = LOSSES[setting.loss]
    generator, discriminator = game.generator, game.discriminator
    fault.begin_step(game)
    for update in range(setting.n_dis):
        first = (game.step * setting.n_dis + update) * setting.batch
        real = fault.real(real_batch(setting.data, first, setting.batch, game.draw), game)
        with torch.no_grad():
            fake = generator(fault.latents(_latents(game, setting), game))
        fake = fault.fake(fake, game)
        real_logits, fake_logits = discriminator(torch.cat([real, fake])).chunk(2)
        d_loss = loss.discriminator(real_logits, fake_logits)
        total = d_loss + weight_penalty(discriminator)
        if setting.penalty:
            penalty = PENALTIES.build(setting.penalty[0], **dict(setting.penalty[1]))
            total = total + penalty(0, discriminator, real, fake, generator=game.draw)
        game.optimizers["D"].zero_grad()
        total.backward()
        _step(game, "D", fault)
    discriminator.requires_grad_(False)
    fake = generator(fault.latents(_latents(game, setting), game))
    compared = (discriminator(real).detach(),) if loss.needs_real else ()
    g_loss = loss.generator(discriminator(fake), *compared)
    game.optimizers["G"].zero_grad()
    fault.generator_loss(g_loss, fake, game).backward()
    discriminator.requires_grad_(True)
    _step(game, "G", fault)
    signals = {"d_loss": d_loss, "g_loss": g_loss, "real_logits": real_logits, "fake_logits": fake_logits}
    return {name: value.detach() for name, value in {**signals, "real": real, "fake": fake}.items()}


def _step(game: Game, player: str, fault: Fault) -> None:
    optimizer = game.optimizers[player]
    fault.gradients([p for group in optimizer.param_groups for p in group["params"]], player, game)
    if fault.trains(player):
        optimizer.step()


def _latents(game: Game, setting: Setting) -> Tensor:
    return torch.randn(setting.batch, game.generator.latent_dim, generator=game.draw)


@torch.no_grad()
def samples(game: Game, setting: Setting) -> Tensor:
    """Samples to judge, as training sees them: the generator stays in training mode, latents are fresh."""
    count = IMAGES if setting.data == "digits" else POINTS
    draw = torch.Generator().manual_seed(game.step)
    return game.generator(torch.randn(count, game.generator.latent_dim, generator=draw))
