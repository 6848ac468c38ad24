"""Power iteration against the singular value decomposition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.spectra import as_matrix, power_iteration, rayleigh

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))
SIZES = st.integers(0, 2**31)


def matrix_with_gap(shape, seed):
    """A random float64 matrix whose largest singular value is at least twice the second."""
    generator = torch.Generator().manual_seed(seed)
    u, s, vh = torch.linalg.svd(torch.randn(shape, dtype=torch.float64, generator=generator), full_matrices=False)
    s[1:] = s[1:].clamp_max(s[0] / 2)
    start = torch.randn(shape[0], dtype=torch.float64, generator=generator)
    return u @ torch.diag(s) @ vh, start / start.norm()


@given(SHAPES, SIZES)
@settings(deadline=None, max_examples=60)
def test_converges_to_the_leading_singular_triple(shape, seed):
    matrix, start = matrix_with_gap(shape, seed)
    before = start.clone()
    u, v = power_iteration(matrix, start, rounds=60)
    left, values, right = torch.linalg.svd(matrix)
    torch.testing.assert_close(rayleigh(matrix, u, v), values[0], rtol=1e-10, atol=0)
    torch.testing.assert_close((u @ left[:, 0]).abs(), torch.ones_like(values[0]), rtol=1e-10, atol=0)
    torch.testing.assert_close((v @ right[0]).abs(), torch.ones_like(values[0]), rtol=1e-10, atol=0)
    assert torch.equal(start, before)


@given(SHAPES, SIZES, st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_every_round_is_the_papers(shape, seed, rounds):
    matrix, u = matrix_with_gap(shape, seed)
    found = power_iteration(matrix, u, rounds)
    for _ in range(rounds):
        v = matrix.mT @ u / (matrix.mT @ u).norm()
        u = matrix @ v / (matrix @ v).norm()
    for vector, expected in zip(found, (u, v), strict=True):
        torch.testing.assert_close(vector, expected)
        torch.testing.assert_close(vector.norm(), torch.ones_like(vector[0]))


@given(SHAPES, SIZES)
@settings(deadline=None, max_examples=40)
def test_the_estimate_never_falls_nor_passes_the_true_value(shape, seed):
    matrix, u = matrix_with_gap(shape, seed)
    highest = torch.linalg.svdvals(matrix)[0] * (1 + 1e-12)
    last = torch.zeros((), dtype=torch.float64)
    for _ in range(8):
        u, v = power_iteration(matrix, u)
        sigma = rayleigh(matrix, u, v)
        assert last * (1 - 1e-12) <= sigma <= highest
        last = sigma


def test_a_zero_matrix_gives_a_zero_v_and_keeps_u():
    u = torch.tensor([0.6, 0.8], dtype=torch.float64)
    new_u, v = power_iteration(u.new_zeros(2, 3), u, rounds=4)
    assert torch.equal(new_u, u)
    assert torch.equal(v, u.new_zeros(3))


def test_a_matrix_is_found_again_after_having_been_zero():
    matrix, start = matrix_with_gap((5, 4), 0)
    u, _ = power_iteration(torch.zeros_like(matrix), start)
    u, v = power_iteration(matrix, u, rounds=60)
    torch.testing.assert_close(rayleigh(matrix, u, v), torch.linalg.svdvals(matrix)[0])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter_in_float64(scale):
    matrix, start = matrix_with_gap((6, 4), 1)
    u, v = power_iteration(matrix * scale, start, rounds=60, eps=0.0)
    torch.testing.assert_close(rayleigh(matrix * scale, u, v), torch.linalg.svdvals(matrix)[0] * scale)


@pytest.mark.parametrize("rounds", [0, -1])
def test_needs_a_round(rounds):
    with pytest.raises(ValueError, match=f"rounds is {rounds}; .*at least 1"):
        power_iteration(torch.eye(2), torch.ones(2), rounds)


def test_no_graph_is_kept_through_the_rounds():
    matrix = torch.eye(2, requires_grad=True)
    assert not any(vector.requires_grad for vector in power_iteration(matrix, torch.ones(2)))


@given(SHAPES, SIZES)
@settings(deadline=None, max_examples=20)
def test_the_gradient_of_the_estimate_is_the_outer_product(shape, seed):
    matrix, start = matrix_with_gap(shape, seed)
    u, v = power_iteration(matrix, start)
    matrix.requires_grad_()
    (gradient,) = torch.autograd.grad(rayleigh(matrix, u, v), matrix)
    torch.testing.assert_close(gradient, torch.outer(u, v))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 3, 2)])
@pytest.mark.parametrize("row_dim", [0, 1])
def test_as_matrix_lists_each_rows_entries_in_order(shape, row_dim):
    weight = torch.arange(torch.Size(shape).numel()).reshape(shape)
    rows = [weight.select(row_dim, row).reshape(-1) for row in range(shape[row_dim])]
    assert torch.equal(as_matrix(weight, row_dim), torch.stack(rows))
