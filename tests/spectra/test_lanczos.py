"""Golub–Kahan–Lanczos bidiagonalization against the singular value decomposition of the explicit matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from poise.spectra import conv_map, golub_kahan, lanczos, matrix_map

SIZES = st.integers(0, 2**31)
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_values(values, rows, columns, seed=0):
    """A float64 matrix with these singular values and random singular vectors."""
    count = len(values)
    left = torch.linalg.qr(randn(rows, count, seed=seed)).Q
    right = torch.linalg.qr(randn(columns, count, seed=seed + 1)).Q
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.t()


def check_triples(matrix, found, tolerance):
    """The values are the largest, the vectors orthonormal, and they belong together."""
    k, scale = len(found.values), torch.linalg.svdvals(matrix)[0]
    expected = torch.linalg.svdvals(matrix)[:k]
    torch.testing.assert_close(found.values, expected, rtol=tolerance, atol=float(tolerance * scale) * 1e-3)
    for vectors in (found.left, found.right):
        torch.testing.assert_close(vectors @ vectors.t(), torch.eye(k, dtype=matrix.dtype), rtol=0, atol=tolerance)
    slack = float(tolerance * scale) + 1e-30
    torch.testing.assert_close(found.right @ matrix.t(), found.values[:, None] * found.left, rtol=0, atol=slack)
    back = found.left @ matrix - found.values[:, None] * found.right
    torch.testing.assert_close(back.norm(dim=1), found.residuals, rtol=0, atol=slack)


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.data(), SIZES, st.sampled_from(sorted(TOLERANCE, key=str)))
@settings(deadline=None, max_examples=100)
def test_random_matrices_of_every_shape(shape, data, seed, dtype):
    k = data.draw(st.integers(1, min(shape)))
    matrix = randn(*shape, seed=seed, dtype=dtype)
    found = golub_kahan(matrix_map(matrix, dtype=dtype), k)
    assert found.converged
    assert found.values.dtype == dtype
    check_triples(matrix, found, TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(300, 40), (40, 300), (200, 200), (500, 120)])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_matrices_that_are_not_exhausted(shape, dtype):
    matrix = randn(*shape, dtype=dtype)
    found = golub_kahan(matrix_map(matrix, dtype=dtype), 3, tol=1e-5)
    assert found.converged
    check_triples(matrix, found, TOLERANCE[dtype])


def test_a_restart_keeps_what_was_found(monkeypatch):
    matrix = with_values([1 - 0.002 * i for i in range(300)], 300, 320)  # a dense spectrum: many rounds
    straight = golub_kahan(matrix_map(matrix), 3, tol=1e-8)
    monkeypatch.setattr(lanczos, "BLOCKS_HELD", 4)
    restarted = golub_kahan(matrix_map(matrix), 3, tol=1e-8)
    assert restarted.rounds > 20
    assert straight.converged
    assert restarted.converged
    check_triples(matrix, straight, 1e-8)
    check_triples(matrix, restarted, 1e-8)


@pytest.mark.parametrize("rounds", [4, 5, 6, 7, 8, 9])
def test_vectors_belong_to_their_values_wherever_the_rounds_end(rounds, monkeypatch):
    monkeypatch.setattr(lanczos, "BLOCKS_HELD", 4)
    matrix = with_values([1 - 0.002 * i for i in range(300)], 300, 320)
    found = golub_kahan(matrix_map(matrix), 3, rounds)
    assert not found.converged
    assert found.rounds == rounds
    torch.testing.assert_close(found.right @ matrix.t(), found.values[:, None] * found.left)
    residuals = (found.left @ matrix - found.values[:, None] * found.right).norm(dim=1)
    torch.testing.assert_close(residuals, found.residuals)


@pytest.mark.parametrize(
    ("values", "rows", "columns"),
    [
        ([0.0], 4, 5),  # zero
        ([2.0], 30, 20),  # rank one
        ([3.0, 1e-9], 30, 20),
        ([1.0] * 20, 20, 20),  # orthogonal
        ([1.0] * 60, 60, 200),
        ([2.0] * 3 + [1.0] * 10, 40, 50),  # more copies than were asked for
        ([2.0, 2.0, 1.0, 1.0], 4, 9),
        ([5.0, 4.0, 3.0], 3, 50),
        ([5.0, 4.0, 3.0], 50, 3),
        ([1e-20, 1e-21, 1e-22], 10, 10),
        ([1e20, 1e19, 1e18], 10, 10),
    ],
)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_spectra_that_break_down(values, rows, columns, k):
    matrix = with_values(values, rows, columns)
    found = golub_kahan(matrix_map(matrix), k)
    assert found.converged
    check_triples(matrix, found, 1e-9)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_one_by_one(value):
    found = golub_kahan(matrix_map(torch.tensor([[value]])), 1)
    assert found.values.tolist() == [abs(value)]
    assert found.rounds == 1


@pytest.mark.parametrize("shape", [(1, 9), (9, 1)])
def test_a_vector_has_one_singular_value_its_length(shape):
    weight = randn(*shape)
    torch.testing.assert_close(golub_kahan(matrix_map(weight), 1).values[0], weight.norm())


def test_the_values_never_pass_the_true_ones_and_rise_with_the_rounds():
    matrix = randn(150, 180)
    true = torch.linalg.svdvals(matrix)[:3]
    last = torch.zeros(3, dtype=torch.float64)
    for rounds in range(1, 10):
        values = golub_kahan(matrix_map(matrix), 3, rounds).values
        assert (values >= last * (1 - 1e-12)).all()
        assert (values <= true * (1 + 1e-12)).all()
        last = values


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4])
def test_the_tolerance_holds_and_saves_rounds(tol):
    matrix = randn(200, 300)
    found = golub_kahan(matrix_map(matrix), 3, tol=tol)
    finer = golub_kahan(matrix_map(matrix), 3, tol=tol / 10)
    assert found.converged
    assert found.rounds < finer.rounds
    assert (found.residuals <= tol * found.values).all()
    torch.testing.assert_close(found.values, torch.linalg.svdvals(matrix)[:3], rtol=tol, atol=0)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("spare", [0, 1, 3])
def test_stopping_by_value_keeps_the_tolerance_with_fewer_rounds(k, spare):
    for seed in range(10):
        matrix = randn(200, 300, seed=seed)
        by_residual = golub_kahan(matrix_map(matrix), k, tol=1e-4, spare=spare)
        by_value = golub_kahan(matrix_map(matrix), k, tol=1e-4, spare=spare, by_value=True)
        assert by_value.converged
        assert by_value.rounds < by_residual.rounds
        torch.testing.assert_close(by_value.values, torch.linalg.svdvals(matrix)[:k], rtol=1e-4, atol=0)


@pytest.mark.parametrize("by_value", [False, True])
def test_a_single_vector_is_enough_for_one_value_however_often_it_repeats(by_value):
    matrix = with_values([2.0] * 5 + [1.0] * 50, 60, 70)
    found = golub_kahan(matrix_map(matrix), 1, spare=0, by_value=by_value)
    assert found.converged
    torch.testing.assert_close(found.values, matrix.new_tensor([2.0]))


def test_an_early_invariant_subspace_ends_the_rounds():
    assert golub_kahan(matrix_map(torch.eye(100)), 2).rounds == 1
    assert golub_kahan(matrix_map(torch.zeros(100, 50)), 2).rounds == 1
    assert golub_kahan(matrix_map(with_values([2.0], 100, 50)), 2).rounds <= 2


def test_the_same_every_time_and_unmoved_by_the_global_generator():
    linear_map = conv_map(nn.Conv2d(2, 3, 3, padding=1), 6)
    state = torch.get_rng_state()
    first = golub_kahan(linear_map, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    again = golub_kahan(linear_map, 3)
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.left, again.left)
    other = golub_kahan(linear_map, 3, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(other.values, first.values)


def test_vectors_have_the_shapes_of_the_layers_images():
    found = golub_kahan(conv_map(nn.Conv2d(2, 3, 3), (6, 5)), 4)
    assert found.right.shape == (4, 2, 6, 5)
    assert found.left.shape == (4, 3, 4, 3)


def test_a_good_start_saves_rounds():
    linear_map = conv_map(nn.Conv2d(4, 4, 3, padding=1), 12)
    cold = golub_kahan(linear_map, 3)
    warm = golub_kahan(linear_map, 3, start=cold.right)
    assert warm.rounds < cold.rounds / 2
    torch.testing.assert_close(warm.values, cold.values)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_start_that_misses_the_largest_is_completed(count):
    matrix = torch.diag(torch.arange(20.0, 0, -1, dtype=torch.float64))
    start = matrix.new_zeros(count, 20)
    start[:, 7] = 1  # a singular vector of a smaller value, repeated
    torch.testing.assert_close(
        golub_kahan(matrix_map(matrix), 3, start=start).values, matrix.new_tensor([20.0, 19.0, 18.0])
    )


def test_autocast_does_not_reach_the_iteration():
    linear_map = matrix_map(randn(50, 60, dtype=torch.float32), dtype=torch.float32)
    expected = golub_kahan(linear_map, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(golub_kahan(linear_map, 2).values, expected.values)


EYE = matrix_map(torch.eye(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: golub_kahan(EYE, 0), r"k is 0; a map of shape \(3, 3\) has 1 to 3"),
        (lambda: golub_kahan(EYE, 4), "k is 4"),
        (lambda: golub_kahan(EYE, 1, rounds=0), "rounds is 0; .* at least 1"),
        (lambda: golub_kahan(EYE, 1, spare=-1), "spare is -1; a block cannot have fewer than k vectors"),
        (lambda: golub_kahan(EYE, 1, start=torch.ones(1, 4)), r"start has shape \(1, 4\); needed: \(b, 3\)"),
        (lambda: golub_kahan(matrix_map(torch.full((2, 2), torch.nan)), 1), "NaN or infinity"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
