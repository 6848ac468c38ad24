"""One update: its gradients are those of the plain textbook computation, and each player is left as it should be."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.losses import LOSSES
from poise.models import create
from poise.penalties import PENALTIES
from poise.sampling import to_float
from poise.training.step import Players, discriminator_gradients, generator_gradients

N = 6
Z = torch.randn(N, 8, generator=torch.Generator().manual_seed(1))
REAL = torch.randint(0, 256, (N, 3, 16, 16), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def players(norm: str = "bssn", loss: str = "hinge", precision: str = "fp32", **options: Any) -> Players:
    torch.manual_seed(0)
    g, d = create("sngan-cnn", resolution=16, width=4, latent_dim=8)
    poise.normalize(d, norm, **options)
    g_adam, d_adam = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())
    return Players(g, d, g_adam, d_adam, LOSSES[loss], torch.device("cpu"), precision)


def gradients(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def direct_logits(made: Players) -> tuple[Tensor, Tensor]:
    """Logits of real and fake by two plain forwards of copies."""
    g, d = copy.deepcopy(made.generator), copy.deepcopy(made.discriminator)
    return d(to_float(REAL)), d(g(Z))


@contextmanager
def batch_sizes(module: nn.Module) -> Iterator[list[int]]:
    """The batch size of each forward in the block."""
    sizes: list[int] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    yield sizes
    hook.remove()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", ["none", "sn", "bssn"])
def test_one_pass_gives_the_gradients_of_two(norm: str, loss: str) -> None:
    one, two = players(norm, loss), players(norm, loss)
    two.one_pass = False
    with batch_sizes(one.discriminator) as in_one, batch_sizes(two.discriminator) as in_two:
        signals = discriminator_gradients(one, REAL, Z), discriminator_gradients(two, REAL, Z)
    assert (in_one, in_two) == ([2 * N], [N, N])
    torch.testing.assert_close(gradients(one.discriminator), gradients(two.discriminator), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*signals)


@pytest.mark.parametrize("loss", LOSSES)
def test_discriminator_gradients_are_autograds_of_the_loss(loss: str) -> None:
    made = players("none", loss)
    real_logits, fake_logits = direct_logits(made)
    signals = discriminator_gradients(made, REAL, Z)
    torch.testing.assert_close(signals["d_loss"], LOSSES[loss].discriminator(real_logits, fake_logits).detach())
    torch.testing.assert_close(signals["real_logit"], real_logits.mean().detach())
    torch.testing.assert_close(signals["fake_logit"], fake_logits.mean().detach())
    assert not any(signal.requires_grad for signal in signals.values())

    g, d = copy.deepcopy(made.generator), copy.deepcopy(made.discriminator)
    d.zero_grad()
    LOSSES[loss].discriminator(d(to_float(REAL)), d(g(Z).detach())).backward()
    torch.testing.assert_close(gradients(made.discriminator), gradients(d), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_generator_gradients_are_autograds_of_the_loss(loss: str) -> None:
    made = players("none", loss)
    g, d = copy.deepcopy(made.generator), copy.deepcopy(made.discriminator)
    signals = generator_gradients(made, Z, real=REAL)
    compared = [d(to_float(REAL)).detach()] if LOSSES[loss].needs_real else []
    value = LOSSES[loss].generator(d(g(Z)), *compared)
    value.backward()
    torch.testing.assert_close(signals["g_loss"], value.detach())
    torch.testing.assert_close(gradients(made.generator), gradients(g), rtol=1e-4, atol=1e-6)


def test_gradients_of_an_earlier_step_are_not_added_up() -> None:
    made = players("none")
    made.generator.requires_grad_(False).eval()
    discriminator_gradients(made, REAL, Z)
    once = gradients(made.discriminator)
    discriminator_gradients(made, REAL, Z)
    torch.testing.assert_close(gradients(made.discriminator), once)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_penalty_of_a_norm_is_in_the_discriminators_gradient_alone(precision: str) -> None:
    plain, penalized = players("none"), players("sigma-reg", precision=precision, sigma=3.0, coefficient=0.5)
    signals = [discriminator_gradients(made, REAL, Z) for made in (plain, penalized)]
    torch.testing.assert_close(*signals, atol=0.02 if precision == "bf16" else 1e-6, rtol=0)
    layers = [part for part in plain.discriminator.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    normalized = list(poise.norms.normalized_weights(penalized.discriminator))
    for layer, weight in zip(layers, normalized, strict=True):
        u, sigma, vh = torch.linalg.svd(weight.original.detach().flatten(1))
        penalty = (sigma[0] - 3) * torch.outer(u[:, 0], vh[0])
        assert layer.weight.grad is not None
        assert weight.original.grad is not None
        added = (weight.original.grad - layer.weight.grad).flatten(1)
        torch.testing.assert_close(added, penalty, rtol=0.05, atol=0.03)
    generator_gradients(plain, Z)
    generator_gradients(penalized, Z)
    assert nn.functional.cosine_similarity(gradients(plain.generator), gradients(penalized.generator), dim=0) > 0.99


def test_a_discriminator_with_batch_norm_sees_real_and_fake_apart() -> None:
    made = players("none")
    d = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)
    )
    made = Players(made.generator, d, made.g_optimizer, torch.optim.Adam(d.parameters()), *_rest(made))
    real_logits, fake_logits = direct_logits(made)
    with batch_sizes(d) as sizes:
        signals = discriminator_gradients(made, REAL, Z)
    assert sizes == [N, N]
    torch.testing.assert_close(signals["d_loss"], made.loss.discriminator(real_logits, fake_logits).detach())


def _rest(made: Players) -> tuple:
    return made.loss, made.device, made.precision


def test_a_discriminator_step_builds_no_graph_into_the_generator() -> None:
    made = players()
    discriminator_gradients(made, REAL, Z)
    assert all(weight.grad is None for weight in made.generator.parameters())
    assert all(weight.grad is not None for weight in made.discriminator.parameters())


def test_a_generator_step_leaves_the_discriminator_trainable_and_without_gradients() -> None:
    made = players()
    generator_gradients(made, Z)
    assert all(weight.grad is None and weight.requires_grad for weight in made.discriminator.parameters())
    assert all(weight.grad is not None for weight in made.generator.parameters())


def test_a_generator_step_leaves_the_discriminators_last_gradients_for_the_monitor() -> None:
    made = players()
    discriminator_gradients(made, REAL, Z)
    before = gradients(made.discriminator).clone()
    generator_gradients(made, Z)
    assert torch.equal(gradients(made.discriminator), before)


@pytest.mark.parametrize("broken", ["generator", "discriminator", "loss"])
def test_a_generator_step_that_raises_leaves_the_discriminator_trainable(broken: str) -> None:
    made = players()

    def fail(*arguments: object) -> None:
        raise RuntimeError("out of memory")

    if broken == "loss":
        made.loss = LOSSES["hinge"].__class__(fail, fail, "nowhere")  # type: ignore[arg-type]
    else:
        getattr(made, broken).register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generator_gradients(made, Z)
    assert all(weight.requires_grad for weight in made.discriminator.parameters())


def test_two_forwards_of_one_update_see_the_same_normalized_weight() -> None:
    """One power iteration per update: D's gradients in its own step and G's go through one and the same D."""
    made = players("bssn")
    discriminator_gradients(made, REAL, Z)
    convolution = made.discriminator.get_submodule("convs.0")
    before = convolution.weight
    generator_gradients(made, Z)
    assert torch.equal(convolution.weight, before)  # type: ignore[arg-type]


def test_bf16_is_near_fp32_and_weights_stay_fp32() -> None:
    exact, rough = players(precision="fp32"), players(precision="bf16")
    for step in (
        lambda made: discriminator_gradients(made, REAL, Z)["d_loss"],
        lambda made: generator_gradients(made, Z)["g_loss"],
    ):
        assert step(rough).item() == pytest.approx(step(exact).item(), abs=0.02)
    for player in ("generator", "discriminator"):
        a, b = gradients(getattr(exact, player)), gradients(getattr(rough, player))
        assert a.dtype == b.dtype == torch.float32
        assert nn.functional.cosine_similarity(a, b, dim=0) > 0.99


Y = torch.arange(N) % 3
FAKE_Y = (torch.arange(N) + 1) % 3


def conditional(conditioning: str, loss: str = "hinge", **options: Any) -> Players:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": 4, "latent_dim": 8, "num_classes": 3}
    g, d = create("sngan", resolution=32, conditioning=conditioning, **sizes)
    adams = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())
    return Players(g, d, *adams, LOSSES[loss], torch.device("cpu"), "fp32", **options)


LARGE = REAL.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize("conditioning", ["projection", "concat", "auxiliary"])
def test_labels_reach_both_players(conditioning: str) -> None:
    made = conditional(conditioning)
    g: Any = copy.deepcopy(made.generator)
    d: Any = copy.deepcopy(made.discriminator)
    signals = discriminator_gradients(made, LARGE, Z, Y, FAKE_Y)
    fake = g(Z, FAKE_Y).detach()
    loss = made.loss.discriminator(d(to_float(LARGE), Y), d(fake, FAKE_Y))
    torch.testing.assert_close(signals["d_loss"], loss.detach())
    if conditioning == "auxiliary":
        for images, y in ((to_float(LARGE), Y), (fake, FAKE_Y)):
            loss = loss + nn.functional.cross_entropy(d.class_logits(images), y)
    loss.backward()
    torch.testing.assert_close(gradients(made.discriminator), gradients(d), rtol=1e-3, atol=1e-5)

    g = copy.deepcopy(made.generator)
    signals = generator_gradients(made, Z, FAKE_Y)
    fake = g(Z, FAKE_Y)
    loss = made.loss.generator(d(fake, FAKE_Y))
    torch.testing.assert_close(signals["g_loss"], loss.detach())
    if conditioning == "auxiliary":
        loss = loss + nn.functional.cross_entropy(d.class_logits(fake), FAKE_Y)
    loss.backward()
    torch.testing.assert_close(gradients(made.generator), gradients(g), rtol=1e-3, atol=1e-5)


def test_a_relativistic_loss_pairs_fakes_with_real_images_in_both_steps() -> None:
    made = players("none", "relativistic")
    g, d = copy.deepcopy(made.generator), copy.deepcopy(made.discriminator)
    with pytest.raises(ValueError, match="give real"):
        generator_gradients(made, Z)
    generator_gradients(made, Z, real=REAL)
    nn.functional.softplus(d(to_float(REAL)).detach() - d(g(Z))).mean().backward()
    torch.testing.assert_close(gradients(made.generator), gradients(g), rtol=1e-4, atol=1e-6)
    assert all(weight.grad is None for weight in made.discriminator.parameters())


def test_penalties_are_in_the_discriminators_gradient_when_they_are_due() -> None:
    lazy = PENALTIES.build("r1", gamma=3.0, every=4)
    made, plain = players("none"), players("none")
    made.penalties.append(lazy)
    images = to_float(REAL).requires_grad_()
    d = copy.deepcopy(made.discriminator)
    (slope,) = torch.autograd.grad(d(images).sum(), images, create_graph=True)
    (4 * 1.5 * slope.square().sum((1, 2, 3)).mean()).backward()
    for update, share in ((0, 1.0), (3, 0.0), (4, 1.0)):
        signals = [discriminator_gradients(one, REAL, Z, update=update) for one in (made, plain)]
        torch.testing.assert_close(signals[0]["d_loss"], signals[1]["d_loss"])
        added = {
            name: weight.grad - other.grad
            for (name, weight), other in zip(
                made.discriminator.named_parameters(), plain.discriminator.parameters(), strict=True
            )
            if weight.grad is not None and other.grad is not None
        }
        for name, weight in d.named_parameters():
            expected = torch.zeros_like(weight) if weight.grad is None else share * weight.grad
            torch.testing.assert_close(added[name], expected, rtol=1e-3, atol=1e-5)


def compiled_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.compile`` traces as ever, and runs what it found without a compiler, which takes a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize("norm", ["none", "bssn"])
def test_compiled_networks_take_the_same_steps(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_eagerly(monkeypatch)
    plain, compiled = players(norm), players(norm)
    compiled = dataclasses.replace(compiled, compiled=True)
    for made in (plain, compiled):  # Adam would make whole steps of the rounding in gradients that ought to be 0
        made.d_optimizer = torch.optim.SGD(made.discriminator.parameters(), 0.1)
        made.g_optimizer = torch.optim.SGD(made.generator.parameters(), 0.1)
    assert compiled.generate is not compiled.generator
    for _ in range(2):
        for made in (plain, compiled):
            discriminator_gradients(made, REAL, Z)
            made.d_optimizer.step()
            generator_gradients(made, Z)
            made.g_optimizer.step()
    for one, other in ((plain.generator, compiled.generator), (plain.discriminator, compiled.discriminator)):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-5)


def test_penalties_of_compiled_networks_differentiate_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_eagerly(monkeypatch)
    plain = dataclasses.replace(players(), penalties=[PENALTIES.build("r1")])
    compiled = dataclasses.replace(players(), penalties=[PENALTIES.build("r1")], compiled=True)
    for made in (plain, compiled):
        discriminator_gradients(made, REAL, Z)
    torch.testing.assert_close(gradients(plain.discriminator), gradients(compiled.discriminator), rtol=1e-4, atol=1e-5)
