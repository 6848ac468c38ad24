"""One update of each player, and what makes it fast.

Both steps follow algorithm 1 of Goodfellow et al. 2014 with the tricks every GAN can have for nothing: fakes for the
discriminator are made without a graph; real and fake go through it in one pass; its weights are frozen while the
generator learns, so that no gradient is computed for them; images are channels-last and the networks run under bf16
autocast where that pays; Adam is one fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from poise import noise
from poise.augmentation import augment
from poise.losses import AdversarialLoss, auxiliary_classifier_discriminator, auxiliary_classifier_generator
from poise.norms import weight_penalty
from poise.penalties import Lazy
from poise.sampling import Latent, to_float
from poise.training.processes import Processes


@dataclass
class Players:
    """The two networks, their optimizers and how they compute."""

    generator: nn.Module
    discriminator: nn.Module
    g_optimizer: torch.optim.Optimizer
    d_optimizer: torch.optim.Optimizer
    loss: AdversarialLoss
    device: torch.device
    precision: str
    """"bf16" for autocast, "fp32" for none"""
    penalties: list[Lazy] = field(default_factory=list)
    """of the discriminator, added to its loss"""
    compiled: bool = False
    """whether the networks run through ``torch.compile``; penalties, which may differentiate twice, do not"""
    augment: Sequence[str] = ()
    """kinds of augmentation between images, real or fake, and the discriminator"""
    g_penalties: Sequence[Lazy] = ()
    """of the generator's weights, added to its loss"""
    latent: Latent = noise.normal
    """distribution of the latents"""
    processes: Processes = field(default_factory=Processes)
    """that train them together"""
    is_watched: bool = False
    """whether the discriminator's update leaves what it saw in ``seen``"""
    seen: dict[str, Tensor] = field(default_factory=dict)
    """real and fake images before augmentation, with labels where there are any, and D's logits: as the monitor takes
    them, of the last update that was watched, of its last part"""

    def __post_init__(self) -> None:
        self.generate: Callable[..., Tensor] = self.generator
        self.judge: Callable[..., Tensor] = self.discriminator
        if self.compiled:  # by size: one graph for each size of batch is quicker than one for all
            self.generate = torch.compile(self.generator, dynamic=False)
            self.judge = torch.compile(self.discriminator, dynamic=False)
        # Batch norm in D would see real and fake mixed in one pass; such a D takes them one after the other.
        self.one_pass = not any(isinstance(m, _BatchNorm) for m in self.discriminator.modules())
        self.d_weights = list(self.discriminator.parameters())
        self._ahead: dict[tuple[int, str], noise.Ahead] = {}
        self.has_classifier = getattr(self.discriminator, "conditioning", None) == "auxiliary"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def latents(self, seed: int, first: int, size: int, stream: str) -> Tensor:
        """Latents number ``first`` and on, on the CPU: ``sampling.latents``, many drawn at once."""
        if (seed, stream) not in self._ahead:
            width = int(self.generator.latent_dim)  # type: ignore[arg-type]
            self._ahead[seed, stream] = noise.Ahead(self.latent, seed, stream, width)
        return self._ahead[seed, stream](first, size)

    def shown(self, images: Tensor, u: Tensor | None) -> Tensor:
        """What D sees of images: themselves, or augmented by the numbers u, (n, 7)."""
        return images if u is None else augment(images.float(), self.augment, u)

    def judged(self, images: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """D's logits, float32 (n,), and its classifier's, (n, classes), if it has one."""
        if self.has_classifier:
            logits, class_logits = self.discriminator.heads(images)  # type: ignore[operator]
            return logits.float(), class_logits.float()
        return self.judge(images, *given(y)).float(), None


def given(y: Tensor | None) -> tuple[Tensor, ...]:
    """Labels as arguments: none for networks that take none, whoever wrote them."""
    return () if y is None else (y,)


def discriminator_gradients(
    players: Players,
    real: Tensor,
    z: Tensor,
    y: Tensor | None = None,
    fake_y: Tensor | None = None,
    update: int = 0,
    part: tuple[int, int] = (0, 1),
    u: Tensor | None = None,
    fake_u: Tensor | None = None,
) -> dict[str, Tensor]:
    """Gradients of the discriminator's loss and penalties into ``.grad``.

    Args:
        real: uint8 images (n, 3, H, W). z: latents (m, latent_dim).
        y, fake_y: int64 labels (n,) and (m,), for networks with classes.
        update: number of this discriminator update, by which lazy penalties take turns.
        part: which of how many equal parts of the batch these are; the first forgets earlier gradients, and all add up
            to those of the whole.
        u, fake_u: what decides the augmentation of real and fake, as ``augmentation.drawn`` gives it; None for none.
            Penalties see augmented images, as in the authors' CIFAR code (Zhao et al. 2020): they tame D where it is
            trained. (Their few-shot code takes the gradient before augmentation.)

    Returns:
        d_loss, without penalties, and the mean logits of real and fake: scalars on the device, not read back.
    """
    with players.autocast():
        with torch.no_grad():
            fake = players.generate(z, *given(fake_y)).float()
        plain = to_float(real), fake
        images, fake = players.shown(plain[0], u), players.shown(fake, fake_u)
        if players.one_pass:
            batch = torch.cat([images, fake])
            if batch.ndim == 4:  # points in the plane have no channels
                batch = batch.contiguous(memory_format=torch.channels_last)
            labels = None if y is None or fake_y is None else torch.cat([y, fake_y])
            logits, class_logits = players.judged(batch, labels)
            sizes = [len(images), len(fake)]
            real_logits, fake_logits = logits.split(sizes)
            classes = None if class_logits is None else class_logits.split(sizes)
        else:
            real_logits, real_classes = players.judged(images, y)
            fake_logits, fake_classes = players.judged(fake, fake_y)
            classes = None if real_classes is None or fake_classes is None else (real_classes, fake_classes)
        loss = players.loss.discriminator(real_logits, fake_logits)
        total = loss + weight_penalty(players.discriminator)
        if classes is not None:
            assert y is not None
            assert fake_y is not None
            total = total + auxiliary_classifier_discriminator(classes[0], y, classes[1], fake_y)
        for penalty in players.penalties:
            if penalty.is_due(update):
                total = total + penalty(update, players.discriminator, images, fake, y, fake_y)
    if players.is_watched:
        shown = {"real": plain[0], "fake": plain[1], "real_logits": real_logits, "fake_logits": fake_logits}
        known = {name: label for name, label in (("real_y", y), ("fake_y", fake_y)) if label is not None}
        players.seen = {name: tensor.detach() for name, tensor in (shown | known).items()}
    if part[0] == 0:
        players.d_optimizer.zero_grad()
    (total / part[1]).backward()
    return {
        "d_loss": loss.detach(),
        "real_logit": real_logits.detach().mean(),
        "fake_logit": fake_logits.detach().mean(),
    }


def generator_gradients(
    players: Players,
    z: Tensor,
    fake_y: Tensor | None = None,
    real: Tensor | None = None,
    y: Tensor | None = None,
    part: tuple[int, int] = (0, 1),
    u: Tensor | None = None,
    fake_u: Tensor | None = None,
    update: int = 0,
) -> dict[str, Tensor]:
    """Gradients of the generator's loss and penalties into ``.grad``; none for the discriminator.

    Returns g_loss, without penalties, not read back.

    Args:
        z: latents (n, latent_dim). fake_y: int64 labels (n,), for networks with classes.
        real, y: uint8 images (n, 3, H, W) and their labels, for a loss that looks at real ones too.
        part, u, fake_u, update: as ``discriminator_gradients`` takes them.

    Raises:
        ValueError: such a loss without them.
    """
    if players.loss.needs_real and real is None:
        raise ValueError("this loss compares fakes with real images in the generator's step too; give real")
    for weight in players.d_weights:
        weight.requires_grad_(False)
    try:
        with players.autocast():
            fake = players.shown(players.generate(z, *given(fake_y)), fake_u)
            logits, class_logits = players.judged(fake, fake_y)
            compared: tuple[Tensor, ...] = ()
            if players.loss.needs_real and real is not None:
                with torch.no_grad():
                    compared = (players.judged(players.shown(to_float(real), u), y)[0],)
            loss = players.loss.generator(logits, *compared)
            total = loss + weight_penalty(players.generator)
            if class_logits is not None:
                assert fake_y is not None
                total = total + auxiliary_classifier_generator(class_logits, fake_y)
            for penalty in players.g_penalties:
                if penalty.is_due(update):
                    total = total + penalty(update, players.generator, z)
        if part[0] == 0:
            players.g_optimizer.zero_grad()
        (total / part[1]).backward()
    finally:
        for weight in players.d_weights:
            weight.requires_grad_(True)
    return {"g_loss": loss.detach()}
