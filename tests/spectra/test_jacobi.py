"""Jacobi rotations against torch's singular value decomposition."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from poise.spectra.jacobi import jacobi_svd, small_svd


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(matrix, decomposition, tolerance):
    left, values, right = decomposition
    scale, eye = float(matrix.abs().max()) or 1.0, torch.eye(matrix.shape[-1], dtype=matrix.dtype).expand_as(matrix)
    expected = torch.linalg.svdvals(matrix)
    torch.testing.assert_close(values, expected, rtol=tolerance, atol=tolerance * scale)
    torch.testing.assert_close(left @ torch.diag_embed(values) @ right, matrix, rtol=0, atol=20 * tolerance * scale)
    for vectors in (left, right):
        torch.testing.assert_close(vectors @ vectors.mT, eye, rtol=0, atol=20 * tolerance)
    assert (values[..., 1:] <= values[..., :-1] + tolerance * scale).all()


@example(12, 8, 8, torch.float64)  # seven sweeps were not enough
@example(12, 11, 2004668712, torch.float64)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64]))
def test_random_matrices_of_every_rank(count, rank, seed, dtype):
    matrix = randn(3, count, min(count, rank), seed=seed) @ randn(3, min(count, rank), count, seed=seed + 1)
    check(matrix.to(dtype), jacobi_svd(matrix.to(dtype)), 30 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_any_scale(count, scale):
    matrix = randn(count, count, dtype=torch.float32) * scale
    check(matrix, jacobi_svd(matrix), 1e-5)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_the_identity_and_repeated_values(count):
    check(torch.eye(count), jacobi_svd(torch.eye(count)), 1e-6)
    turn = torch.linalg.qr(randn(count, count)).Q
    check(3 * turn, jacobi_svd(3 * turn), 1e-13)


def test_a_triangle_as_a_round_meets_it():
    matrix = randn(5, 6, 6).triu() * 1e-4 + torch.diag(torch.tensor([9.0, 5, 5, 3, 1e-3, 0])).double()
    check(matrix, jacobi_svd(matrix), 1e-12)
    check(matrix, small_svd(matrix), 1e-12)
