"""Augmentation: each kind is its formula image by image, both players see it, and it lets gradients through."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.augmentation import AUGMENTATIONS, DRAWN, augment, drawn
from poise.losses import LOSSES
from poise.models import create
from poise.penalties import PENALTIES
from poise.sampling import to_float
from poise.training import Recipe, RecipeError, checkpoint, train
from poise.training.step import Players, discriminator_gradients, generator_gradients

SHAPES = [(3, 16, 16), (3, 9, 13), (1, 8, 24)]
KINDS = [*AUGMENTATIONS]


def images(n: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return (
        torch.rand(n, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(2).sub(1).to(dtype)
    )


def by_hand(kind: str, image: Tensor, u: list[float]) -> Tensor:
    """One image (C, H, W), pixel by pixel, as Zhao et al. 2020 describe it."""
    channels, height, width = image.shape
    result = torch.zeros_like(image)
    if kind == "color":
        bright = [[[float(v) + u[0] - 0.5 for v in row] for row in plane] for plane in image]
        for i in range(height):
            for j in range(width):
                grey = sum(bright[c][i][j] for c in range(channels)) / channels
                for c in range(channels):
                    result[c, i, j] = grey + 2 * u[1] * (bright[c][i][j] - grey)
        mean = float(result.sum()) / result.numel()
        return mean + (0.5 + u[2]) * (result - mean)
    if kind == "translation":
        down, right = (
            int(u[3] * (2 * (height // 8) + 1)) - height // 8,
            int(u[4] * (2 * (width // 8) + 1)) - width // 8,
        )
        for i in range(height):
            for j in range(width):
                if 0 <= i + down < height and 0 <= j + right < width:
                    result[:, i, j] = image[:, i + down, j + right]
        return result
    sides = height // 2, width // 2
    places = height + 1 - sides[0] % 2, width + 1 - sides[1] % 2
    top, left = (int(v * count) - side // 2 for v, count, side in zip(u[5:], places, sides, strict=True))
    result = image.clone()
    for i in range(height):
        for j in range(width):
            if top <= i < top + sides[0] and left <= j < left + sides[1]:
                result[:, i, j] = 0
    return result


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_its_formula_image_by_image(kind: str, shape: tuple[int, int, int]) -> None:
    x, u = images(6, shape), drawn(1, "test", 0, 6)
    expected = torch.stack([by_hand(kind, image, numbers) for image, numbers in zip(x, u.tolist(), strict=True)])
    torch.testing.assert_close(augment(x, [kind], u), expected)


def test_kinds_follow_one_another_in_their_order() -> None:
    x, u = images(4, (3, 16, 16)), drawn(2, "test", 0, 4)
    after = [augment(augment(x, [first], u), [then], u) for first, then in (("cutout", "color"), ("color", "cutout"))]
    assert torch.equal(augment(x, ["cutout", "color"], u), after[0])
    assert torch.equal(augment(x, ["color", "cutout"], u), after[1])
    assert not torch.equal(*after)
    assert augment(x, [], u) is x


@pytest.mark.parametrize("side", [8, 9, 16, 31])
def test_the_edges_of_what_is_drawn_stay_in_the_papers_ranges(side: int) -> None:
    lowest, highest = torch.full((1, DRAWN), 2.0**-24), torch.full((1, DRAWN), 1 - 2.0**-24)
    ramp = torch.arange(1.0, side + 1).expand(1, 1, side, side)
    for u, sign in ((lowest, -1), (highest, 1)):
        moved = augment(ramp, ["translation"], u)[0, 0, side // 2]
        assert moved.nonzero().flatten().tolist() == [j for j in range(side) if 0 <= j + sign * (side // 8) < side]
        cut = augment(torch.ones(1, 1, side, side), ["cutout"], u) == 0
        assert 0 < int(cut.sum()) <= (side // 2) ** 2
        assert bool(cut[0, 0, (0, -1)[sign > 0], (0, -1)[sign > 0]])  # as far into the corner as it goes


def test_translations_and_squares_are_uniform_over_their_range() -> None:
    n = 20_000
    u = drawn(3, "test", 0, n)
    x = torch.zeros(n, 1, 16, 16)
    x[:, :, 8, 8] = 1
    at = augment(x, ["translation"], u).flatten(1).argmax(1)
    counts = torch.bincount(at, minlength=256).view(16, 16)[6:11, 6:11]
    assert int(counts.sum()) == n
    assert float((counts - n / 25).abs().max()) < 5 * (n / 25) ** 0.5
    share = (augment(torch.ones(n, 1, 16, 16), ["cutout"], u) == 0).float().mean((0, 1))
    # 17 centres; a row is covered by 8 of them, fewer near the edge, where squares reach beyond it.
    rows = torch.tensor([sum(c - 4 <= i < c + 4 for c in range(17)) / 17 for i in range(16)])
    torch.testing.assert_close(share, rows[:, None] * rows[None, :], atol=0.02, rtol=0)


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS], ids="+".join)
def test_it_is_differentiable_twice(kinds: list[str]) -> None:
    x, u = images(2, (3, 8, 8)).requires_grad_(), drawn(4, "test", 0, 2)
    assert torch.autograd.gradcheck(lambda x: augment(x, kinds, u), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, kinds, u).tanh(), x, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS], ids="+".join)
def test_type_and_memory_format_are_kept_and_change_nothing(kinds: list[str], dtype: torch.dtype) -> None:
    x, u = images(4, (3, 16, 16), dtype), drawn(5, "test", 0, 4)
    plain, last = augment(x, kinds, u), augment(x.contiguous(memory_format=torch.channels_last), kinds, u)
    assert plain.dtype == last.dtype == dtype
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain, last, rtol=0, atol=4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(plain.double(), augment(x.double(), kinds, u), rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_what_is_drawn_depends_on_seed_stream_and_number_alone() -> None:
    whole = drawn(7, "d-real", 10, 8)
    assert torch.equal(whole, torch.cat([drawn(7, "d-real", 10, 3), drawn(7, "d-real", 13, 5)]))
    assert not torch.equal(whole, drawn(7, "d-fake", 10, 8))
    assert not torch.equal(whole, drawn(8, "d-real", 10, 8))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: augment(torch.zeros(2, 3, 8, 8), ["colour"], torch.zeros(2, DRAWN)), "'colour'; did you mean 'color'"),
        (lambda: augment(torch.zeros(2, 2), ["color"], torch.zeros(2, DRAWN)), r"shape \(2, 2\); .*\(n, C, H, W\)"),
        (
            lambda: augment(torch.zeros(2, 3, 8, 8), ["color"], torch.zeros(3, DRAWN)),
            r"\(3, 7\); 2 images take \(2, 7\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(call: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (["colors"], "augment.0: unknown augmentation 'colors'; did you mean 'color'"),
        (["cutout", "cutout"], "augment.1: 'cutout' is there already"),
        ("color", "augment: given 'color'; .*list"),
    ],
)
def test_a_recipe_with_a_wrong_kind_is_refused(value: Any, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        Recipe.parse({"augment": value})


# In training.

N = 4
Z = torch.randn(N, 8, generator=torch.Generator().manual_seed(1))
REAL = torch.randint(0, 256, (N, 3, 16, 16), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
U, FAKE_U = drawn(0, "real", 0, N), drawn(0, "fake", 0, N)


def players(loss: str = "non-saturating", penalty: str | None = None, **options: Any) -> Players:
    torch.manual_seed(0)
    g, d = create("sngan-cnn", resolution=16, width=4, latent_dim=8)
    adams = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())
    penalties = [PENALTIES.build(penalty)] if penalty else []
    return Players(g, d, *adams, LOSSES[loss], torch.device("cpu"), "fp32", penalties, **options)


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in module.parameters()]


@pytest.mark.parametrize("penalty", [None, "r1", "r2"])
def test_the_discriminator_and_its_penalties_see_augmented_images(penalty: str | None) -> None:
    made = players(penalty=penalty, augment=KINDS)
    g, d = copy.deepcopy(made.generator), copy.deepcopy(made.discriminator)
    discriminator_gradients(made, REAL, Z, u=U, fake_u=FAKE_U)
    real, fake = augment(to_float(REAL), KINDS, U), augment(g(Z).detach(), KINDS, FAKE_U)
    loss = made.loss.discriminator(d(real), d(fake))
    if penalty:
        seen = (real if penalty == "r1" else fake).requires_grad_()
        (slope,) = torch.autograd.grad(d(seen).sum(), seen, create_graph=True)
        loss = loss + 5 * slope.square().sum((1, 2, 3)).mean()
    loss.backward()
    torch.testing.assert_close(gradients(made.discriminator), gradients(d), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", ["non-saturating", "relativistic"])
def test_the_generators_gradient_goes_through_the_augmentation(loss: str) -> None:
    made = players(loss, augment=KINDS)
    g, d = copy.deepcopy(made.generator), copy.deepcopy(made.discriminator)
    generator_gradients(made, Z, real=REAL, u=U, fake_u=FAKE_U)
    compared = [d(augment(to_float(REAL), KINDS, U)).detach()] if made.loss.needs_real else []
    made.loss.generator(d(augment(g(Z), KINDS, FAKE_U)), *compared).backward()
    torch.testing.assert_close(gradients(made.generator), gradients(g), rtol=1e-3, atol=1e-6)
    assert all(grad is not None and bool(grad.any()) for grad in gradients(made.generator)[:1])


def weights(recipe: Recipe, out: Path, **options: Any) -> dict[str, dict[str, Tensor]]:
    run = train(recipe, out, bar=False, say=lambda _: None, **options)
    return checkpoint.load(checkpoint.newest(run.checkpoints)[0]).networks


def test_an_augmented_run_goes_on_bit_for_bit_and_differs_from_a_plain_one(tiny: Any, tmp_path: Path) -> None:
    recipe = tiny(steps=3, checkpoint_every=2, augment=["color", "cutout"])
    whole = weights(recipe, tmp_path / "whole")
    weights(recipe, tmp_path / "parts")
    newest = checkpoint.newest(tmp_path / "parts" / "checkpoints")[0]
    for file in newest.iterdir():  # as if it had been stopped after step 2
        file.unlink()
    newest.rmdir()
    torch.testing.assert_close(weights(recipe, tmp_path / "parts", resume=True), whole, rtol=0, atol=0)
    plain = weights(tiny(steps=3, checkpoint_every=2), tmp_path / "plain")
    assert not torch.equal(plain["generator"]["linear.weight"], whole["generator"]["linear.weight"])
