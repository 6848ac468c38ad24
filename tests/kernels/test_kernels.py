"""Loops in C against formulas in float64, on every set of instructions of this processor."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from poise import kernels

if not kernels.is_built():
    pytest.skip("installed without a compiler", allow_module_level=True)

SETS = range(kernels._cpu.use(0))
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 5))
READINGS = {"rows": [False], "columns": [True], "both": [False, True]}


@pytest.fixture(scope="module", params=SETS, autouse=True)
def instructions(request):
    kernels._cpu.use(request.param)
    yield
    kernels._cpu.use(0)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return nn.functional.normalize(randn(*shape, seed=seed), dim=0)


def as_read(weight, by_columns):
    return weight.double().transpose(0, 1 if by_columns else 0).flatten(1)


def rounds(readings, is_divided=False):
    """Of each weight, read one way: u, v and σ; and all weights divided."""
    jobs = [(w, None if by_columns else u, u if by_columns else None, 1.4, eps) for w, by_columns, u, eps in readings]
    found = kernels.power_rounds(jobs, is_divided)
    assert found is not None
    made = []
    for (*both, _), (_, by_columns, *_) in zip(found, readings, strict=True):
        assert both[not by_columns] is None
        made.append(both[by_columns])
    return made, [quotient for *_, quotient in found]


def derivatives(jobs):
    found = kernels.derivatives(jobs)
    assert found is not None
    return found


def near(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * float(expected.abs().max()) + 1e-300)


@given(SHAPES, st.booleans(), st.integers(0, 99))
def test_a_round_of_power_iteration(shape, by_columns, seed):
    weight = randn(*shape, seed=seed)
    matrix = as_read(weight, by_columns)
    before = unit(len(matrix), seed=seed + 1)
    ((u, v, sigma),), _ = rounds([(weight, by_columns, before, 1e-12)])
    image = matrix.t() @ before.double()
    expected_v = image / image.norm()
    expected_u = matrix @ expected_v
    near(v, expected_v)
    assert sigma == pytest.approx(float(expected_u.norm()), rel=1e-5)
    near(u, expected_u / expected_u.norm())


@pytest.mark.parametrize(
    "shape", [(128, 130, 3, 3), (7, 3, 7, 7), (40, 2000), (300, 1, 1, 1), (2, 33, 3, 3, 3)], ids=lambda s: str(s)
)
@pytest.mark.parametrize("by_columns", [False, True])
def test_rounds_converge_to_the_largest_singular_value(shape, by_columns):
    weight = randn(*shape) + 1
    u = unit(len(as_read(weight, by_columns)))
    for _ in range(30):
        ((u, v, sigma),), _ = rounds([(weight, by_columns, u, 1e-12)])
    assert sigma == pytest.approx(float(torch.linalg.matrix_norm(as_read(weight, by_columns), 2)), rel=1e-6)
    near(as_read(weight, by_columns) @ v.double(), sigma * u.double(), 1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("by_columns", [False, True])
def test_neither_small_nor_large_numbers_are_lost(scale, by_columns):
    weight = randn(6, 20, 3)
    u = unit(20 if by_columns else 6)
    ((_, _, expected),), _ = rounds([(weight, by_columns, u, 0.0)])
    ((_, _, sigma),), _ = rounds([(weight * scale, by_columns, u, 0.0)])
    assert sigma == pytest.approx(expected * scale, rel=1e-5)


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("entry", [0.0, 1e-15, math.nan, math.inf])
def test_what_has_no_direction_has_no_sigma_and_does_no_harm_to_others(entry, by_columns):
    good, u = randn(4, 4, 3), unit(4)
    ((_, _, alone),), _ = rounds([(good, by_columns, u, 1e-12)])
    bad = torch.full((4, 4, 3), entry)
    found, quotients = rounds([(w, by_columns, u, 1e-12) for w in (good, bad, good)], is_divided=True)
    assert math.isnan(found[1][2])
    assert found[0][2] == found[2][2] == alone
    assert quotients[1] is None
    near(quotients[0], 1.4 * good.double() / alone)


@given(SHAPES, st.integers(0, 99))
def test_both_directions_at_once_give_what_each_gives_and_the_quotient_of_their_mean(shape, seed):
    weight = randn(*shape, seed=seed)
    u_rows, u_columns = unit(shape[0], seed=seed + 1), unit(shape[1], seed=seed + 2)
    found = kernels.power_rounds([(weight, u_rows, u_columns, 1.4, 1e-12)], True)
    assert found is not None
    ((*both, quotient),) = found
    apart, _ = rounds([(weight, False, u_rows, 1e-12), (weight, True, u_columns, 1e-12)])
    for made, alone in zip(both, apart, strict=True):
        assert made is not None
        assert torch.equal(made[0], alone[0])
        assert torch.equal(made[1], alone[1])
        assert made[2] == alone[2]
    near(quotient, 1.4 * weight.double() * 2 / (apart[0][2] + apart[1][2]))


@given(SHAPES, st.sampled_from(list(READINGS.values())), st.integers(0, 99), st.booleans())
def test_the_derivative_is_that_of_the_quotient(shape, by, seed, is_zero):
    grad, weight = randn(*shape, seed=seed), randn(*shape, seed=seed + 1)
    vectors: list[tuple[Tensor, Tensor] | None] = [None, None]
    for by_columns in by:
        rows, columns = as_read(weight, by_columns).shape
        vectors[by_columns] = unit(rows, seed=seed + 2), unit(columns, seed=seed + 3)
    scale, sigma, eps = 1.4, 0.7 + seed / 50, 1e9 if is_zero else 1e-12
    (found,) = derivatives([(grad, weight, *vectors, scale / sigma, sigma, eps)])
    mean = torch.zeros(shape, dtype=torch.float64)
    for by_columns in by:
        outer = torch.outer(*(vector.double() for vector in vectors[by_columns] or ()))
        rest = (shape[0], *shape[2:]) if by_columns else shape[1:]
        mean += outer.unflatten(1, rest).transpose(0, 1 if by_columns else 0) / len(by)
    inner = 0 if is_zero else (grad.double() * weight.double()).sum() / sigma
    near(found, scale / sigma * (grad.double() - inner * mean))


def test_several_threads_give_the_bits_of_one():
    weights = [randn(128, 128, 3, 3, seed=seed) for seed in range(4)]
    assert sum(weight.numel() for weight in weights) > kernels.ONE_THREAD
    us = [unit(128, seed=seed) for seed in range(4)]
    grads = [weight.flip(0) for weight in weights]
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert kernels.threads_for(kernels.ONE_THREAD + 1) == count
            readings = [(w, bool(i % 2), u, 0.0) for i, (w, u) in enumerate(zip(weights, us, strict=True))]
            made, quotients = rounds(readings, is_divided=True)
            jobs = [
                (grad, w, None if by_columns else (u, v), (u, v) if by_columns else None, 2.0, sigma, 0.0)
                for grad, (w, by_columns, *_), (u, v, sigma) in zip(grads, readings, made, strict=True)
            ]
            us_and_vs = [vector for u, v, _ in made for vector in (u, v)]
            found.append([*us_and_vs, *quotients, *derivatives(jobs)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


class Subclass(torch.Tensor):
    pass


NOT_PLAIN = {
    "float64": lambda: randn(4, 3).double(),
    "bfloat16": lambda: randn(4, 3).bfloat16(),
    "meta": lambda: torch.empty(4, 3, device="meta"),
    "transposed": lambda: randn(3, 4).t(),
    "channels-last": lambda: randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
    "negated": lambda: torch.complex(randn(4, 3), randn(4, 3)).conj().imag,
    "subclass": lambda: randn(4, 3).as_subclass(Subclass),
    "fake": lambda: FakeTensorMode().from_tensor(randn(4, 3)),
}


@pytest.mark.parametrize("build", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_no_plain_memory_is_left_to_operators(build):
    x, plain = build(), randn(4, 3)
    assert kernels.address(x) == 0
    assert kernels.address(plain) == plain.data_ptr()
    u, v = unit(4), unit(x.numel() // 4)
    assert kernels.power_rounds([(plain, u, None, 1.0, 0.0), (x, u, None, 1.0, 0.0)], False) is None
    assert kernels.power_rounds([(plain, u.double(), None, 1.0, 0.0)], False) is None
    assert kernels.derivatives([(x, torch.ones(x.shape), (u, v), None, 1.0, 1.0, 0.0)]) is None
    assert kernels.derivatives([(torch.ones(x.shape), x, None, (u, v), 1.0, 1.0, 0.0)]) is None
    assert kernels.derivatives([(plain, plain, (u, v.double()), None, 1.0, 1.0, 0.0)]) is None


def test_vectors_and_gradients_of_another_size_are_left_to_operators():
    weight, u, v = randn(4, 3, 2), unit(4), unit(6)
    assert kernels.power_rounds([(weight, unit(5), None, 1.0, 0.0)], False) is None
    assert kernels.power_rounds([(weight, None, unit(4), 1.0, 0.0)], False) is None
    for grad, by_rows, by_columns in (
        (randn(4, 3), (u, v), None),
        (weight, (u, unit(5)), None),
        (weight, None, (u, v)),
        (weight, (unit(3), v), None),
    ):
        assert kernels.derivatives([(grad, weight, by_rows, by_columns, 1.0, 1.0, 0.0)]) is None


def test_nothing_is_computed_where_new_tensors_are_only_imagined():
    weight, u, v = randn(4, 3), unit(4), unit(3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for is_divided in (False, True):
            assert kernels.power_rounds([(weight, u, None, 1.0, 0.0)], is_divided) is None
        assert kernels.derivatives([(weight, weight, (u, v), None, 1.0, 1.0, 0.0)]) is None


def test_a_batched_gradient_is_left_to_operators():
    grad, weight, u, v = randn(5, 4, 3), randn(4, 3), unit(4), unit(3)
    found = []

    def ask(one):
        found.append(kernels.derivatives([(one, weight, (u, v), None, 1.0, 1.0, 0.0)]))
        return one

    torch.vmap(ask)(grad)
    assert found == [None]


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_following_finds_the_largest_singular_values(tall, steps, count):
    weight = randn(50, 6) if tall else randn(6, 50)
    basis = torch.linalg.qr(randn(6, count, seed=1)).Q.t().contiguous()
    true = torch.linalg.svdvals(weight.double())
    for _ in range(200):
        (values,) = kernels.follow([weight], [basis], [(*weight.shape, count, steps, min(count, 3))])
        assert (values.double() <= true[: len(values)] * (1 + 1e-5)).all()
        near(basis @ basis.t(), torch.eye(count, dtype=torch.float64))
    near(values, true[: min(count, 3)])
    side = weight.t() @ weight if tall else weight @ weight.t()
    near(torch.linalg.vector_norm(basis[0] @ side), true[0] ** 2)


@pytest.mark.parametrize("entry", [0.0, math.nan, math.inf])
def test_following_a_weight_that_tells_nothing_keeps_the_basis(entry):
    weight = torch.full((6, 50), entry)
    basis = torch.linalg.qr(randn(6, 4)).Q.t().contiguous()
    before = basis.clone()
    (values,) = kernels.follow([weight], [basis], [(6, 50, 4, 1, 3)])
    assert (values == 0).all() if entry == 0 else values.isnan().all()
    assert torch.equal(basis, before)


def test_following_a_weight_of_rank_one_keeps_a_basis():
    weight, basis = torch.outer(unit(6), 3 * unit(50)), torch.linalg.qr(randn(6, 4)).Q.t().contiguous()
    for steps in (1, 0):
        (values,) = kernels.follow([weight], [basis], [(6, 50, 4, steps, 3)])
        near(values, torch.tensor([3.0, 0, 0], dtype=torch.float64), 1e-3)  # a zero is the root of a rounding error
        near(basis @ basis.t(), torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels._cpu.use(99), "99 is not one of this processor's"),
        (lambda: kernels._cpu.rounds([1.0] * 8, 0, 1), "8 numbers given; needed: 9 a weight"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_that_are_none_are_refused():
    numbers: Any = [None] * 13
    with pytest.raises(TypeError):
        kernels._cpu.derivatives(numbers, 1)
