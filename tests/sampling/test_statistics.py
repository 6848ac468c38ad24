"""Standing statistics against a plain float64 computation; nothing else of the generator changes; computed once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise import noise
from poise.layers import BatchNorm, ClassBatchNorm, ConditionBatchNorm
from poise.sampling import LATENTS, Sampler, StandingStatistics, fingerprint, labels, latents, standing_statistics
from poise.sampling.statistics import batch_norms, load_statistics, statistics


class Tiny(nn.Module):
    """Batch norms of every kind, a dropout, and nothing that is not needed."""

    latent_dim, num_classes, resolution = 6, 3, 4

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 5)
        self.linear = nn.Linear(6, 8 * 16)
        self.flat = nn.BatchNorm1d(8 * 16)
        self.plain, self.of_class, self.of_condition = BatchNorm(8), ClassBatchNorm(8, 3), ConditionBatchNorm(8, 5)
        self.stateless = nn.BatchNorm2d(8, track_running_stats=False)
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        nn.init.normal_(self.of_class.gain.weight)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.plain(self.flat(self.linear(z)).unflatten(1, (8, 4, 4))).relu()
        h = self.of_class(self.conv1(self.dropout(h)), y).relu()
        return self.conv2(self.stateless(self.of_condition(h, self.embedding(y)))).tanh()


@pytest.fixture
def generator() -> Tiny:
    torch.manual_seed(0)
    g = Tiny()
    g(torch.randn(50, 6), torch.randint(3, (50,)))  # running averages of its own
    return g.eval()


def by_hand(g: Tiny, threshold: float | None, batches: int, size: int, seed: int, given: Any) -> dict[str, Any]:
    """Means and unbiased variances of every batch norm's input, batch by batch, in a float64 copy."""
    g = copy.deepcopy(g).double()
    for layer in batch_norms(g).values():
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None  # its batch's statistics
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def note(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].transpose(0, 1).flatten(1)
            seen.setdefault(name, []).append((values.mean(1), values.var(1)))

        return hook

    for name, layer in g.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and name != "stateless":
            layer.register_forward_pre_hook(note(name))
    latent = noise.normal if threshold is None else LATENTS.build("truncated-normal", threshold=threshold)
    for k in range(batches):
        z = latents(g, seed, k * size, size, "standing", latent).double()
        y = labels(g, seed, k * size, size, given, "standing-label")
        g(z, y)
    return {name: tuple(torch.stack(x).mean(0) for x in zip(*pairs, strict=True)) for name, pairs in seen.items()}


@pytest.mark.parametrize("threshold", [None, 0.3, 2.0])
@pytest.mark.parametrize(("batches", "size", "given"), [(1, 8, None), (7, 5, 1), (4, 16, torch.tensor([0, 2]))])
def test_standing_statistics_are_the_averages_over_batches(
    generator: Tiny, threshold: float | None, batches: int, size: int, given: Any
) -> None:
    expected = by_hand(generator, threshold, batches, size, 5, given)
    standing_statistics(generator, threshold, batches, size, given, seed=5)
    found = statistics(generator)
    assert found.keys() == expected.keys() == {"flat", "plain.norm", "of_class.norm", "of_condition.norm"}
    for name, (mean, variance) in found.items():
        torch.testing.assert_close(mean.double(), expected[name][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance.double(), expected[name][1], rtol=1e-4, atol=1e-6)


class Constant(nn.Module):
    """A batch norm that sees 0.1, whatever the latent."""

    latent_dim, num_classes, resolution = 1, 0, 1

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(0.1))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(0 * z + self.offset)


def test_many_batches_are_averaged_in_float64() -> None:
    g = Constant()
    standing_statistics(g, None, 2000, 2)
    total = sum([torch.tensor(0.1)] * 2000, torch.zeros(()))
    assert total.item() / 2000 != pytest.approx(0.1, rel=1e-6)  # what float32 would give
    assert g.norm.get_buffer("running_mean").item() == pytest.approx(0.1, rel=1e-7)


def test_nothing_but_running_statistics_changes(generator: Tiny) -> None:
    poise.normalize(generator, "sn", layers=(nn.Linear, nn.Conv2d))
    generator.train()
    generator.conv1.eval()  # modes as odd as they may be
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    modes = [module.training for module in generator.modules()]
    random = torch.get_rng_state()
    standing_statistics(generator, 0.5, 3, 8)
    after = generator.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{n}.{k}" for n in batch_norms(generator) for k in ("running_mean", "running_var")}
    assert [module.training for module in generator.modules()] == modes
    assert {layer.momentum for layer in batch_norms(generator).values()} == {0.1}
    assert torch.equal(torch.get_rng_state(), random)
    assert all(weight.grad is None for weight in generator.parameters())
    assert not any(layer._forward_hooks for layer in batch_norms(generator).values())


def test_a_generator_without_batch_norm_is_left_alone() -> None:
    g = nn.Linear(2, 2)
    g.latent_dim, g.num_classes = 2, 0  # type: ignore[assignment]
    standing_statistics(g, 0.5, 2, 4)
    assert statistics(g) == {}


def test_running_statistics_that_are_not_finite_are_got_rid_of(generator: Tiny) -> None:
    generator.flat.get_buffer("running_mean").fill_(torch.nan)
    standing_statistics(generator, None, 2, 8)
    assert all(x.isfinite().all() for pair in statistics(generator).values() for x in pair)


def test_a_layer_that_is_never_reached_keeps_its_statistics(generator: Tiny) -> None:
    generator.extra = nn.BatchNorm2d(4)
    generator.extra.get_buffer("running_mean").fill_(3.0)
    standing_statistics(generator, None, 2, 8)
    assert (generator.extra.get_buffer("running_mean") == 3).all()


def test_where_a_forward_fails_all_is_as_before(generator: Tiny) -> None:
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    calls = iter(range(10))

    def fail(*_: object) -> None:
        if next(calls) == 2:
            raise RuntimeError("out of memory")

    generator.conv2.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        standing_statistics(generator, None, 5, 8)
    torch.testing.assert_close(dict(generator.state_dict()), before, rtol=0, atol=0)
    assert not any(module.training for module in generator.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": 0}, "batches is 0, batch_size 64; .*at least 1 batch"),
        ({"batch_size": 1}, "batches is 16, batch_size 1; .*at least 2 samples"),
        ({"threshold": 0.0}, "threshold is 0.0; .*above 0"),
        ({"labels": 3}, "label is 3; .*nearest 2"),
    ],
)
def test_wrong_requests_are_refused(generator: Tiny, arguments: dict[str, Any], message: str) -> None:
    before = statistics(generator)
    with pytest.raises(ValueError, match=message):
        standing_statistics(generator, **arguments)
    torch.testing.assert_close(statistics(generator), before, rtol=0, atol=0)


# Kept by threshold.


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """Batch sizes of each forward in the block."""
    sizes: list[int] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    yield sizes
    hook.remove()


def test_statistics_are_computed_once_for_each_threshold_labels_and_weights(generator: Tiny) -> None:
    standing = StandingStatistics(generator, 2, 8)
    with counted(generator) as sizes:
        for threshold, given in [(0.5, None), (1.0, None), (0.5, 1), (0.5, torch.tensor([0, 1]))] * 2:
            standing.of(threshold, given)
        assert len(sizes) == 2 * 4
        with standing.applied(0.5):
            standing.of(1.0)  # other running statistics are no other weights
        assert len(sizes) == 2 * 4
        with torch.no_grad():
            generator.conv1.weight[0, 0, 0, 0] += 1e-3
        standing.of(0.5)
        assert len(sizes) == 2 * 5


def test_applied_statistics_are_taken_back_also_by_an_error(generator: Tiny) -> None:
    before = statistics(generator)
    standing = StandingStatistics(generator, 2, 8)
    expected = standing.of(0.5)
    torch.testing.assert_close(statistics(generator), before, rtol=0, atol=0)

    def use() -> None:
        with standing.applied(0.5) as applied:
            assert applied is generator
            torch.testing.assert_close(statistics(generator), expected, rtol=0, atol=0)
            assert not torch.equal(before["flat"][0], expected["flat"][0])
            raise KeyError

    with pytest.raises(KeyError):
        use()
    torch.testing.assert_close(statistics(generator), before, rtol=0, atol=0)


def test_a_sampler_draws_with_standing_statistics_when_asked(generator: Tiny) -> None:
    sampler = Sampler(generator)
    running = sampler.sample(5, seed=0, output="float", truncation=0.5)
    standing = sampler.sample(5, seed=0, output="float", truncation=0.5, standing=3)
    assert not torch.allclose(running, standing)
    assert torch.equal(running, sampler.sample(5, seed=0, output="float", truncation=0.5))
    with counted(generator) as sizes:
        assert torch.equal(standing, sampler.sample(5, seed=0, output="float", truncation=0.5, standing=3))
    assert sizes == [5]
    known = copy.deepcopy(generator)
    standing_statistics(known, 0.5, 3, 64)
    torch.testing.assert_close(standing, Sampler(known).sample(5, seed=0, output="float", truncation=0.5))


# Fingerprints.


def test_a_fingerprint_is_that_of_the_weights(generator: Tiny) -> None:
    first = fingerprint(generator)
    assert fingerprint(copy.deepcopy(generator)) == first
    load_statistics(generator, {name: (m + 1, v + 1) for name, (m, v) in statistics(generator).items()})
    assert fingerprint(generator) == first
    swapped = copy.deepcopy(generator)
    with torch.no_grad():
        swapped.linear.weight[:2] = generator.linear.weight[:2].flip(0)
    assert fingerprint(swapped) != first
    renamed = nn.Sequential(generator.linear)
    assert fingerprint(renamed) != fingerprint(nn.ModuleDict({"x": generator.linear}))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8]
)
def test_a_digest_tells_apart_values_and_their_places(dtype: torch.dtype) -> None:
    x = torch.arange(100).to(dtype)
    other = x.clone()
    other[7] += 1
    found = {noise.digest(y).item() for y in (x, other, x.flip(0), x[:99], x.roll(1))}
    assert len(found) == 5
    assert noise.digest(x.reshape(10, 10).T.contiguous().T).item() == noise.digest(x).item()


def test_a_digest_is_the_same_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1000)
    whole = noise.digest(x)
    monkeypatch.setattr(noise, "_CHUNK", 33)
    assert torch.equal(noise.digest(x), whole)
