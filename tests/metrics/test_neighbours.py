"""Precision, recall, density, coverage in tiles against full matrices in float64, torch-fidelity and prdc."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from poise.metrics.neighbours import neighbour_scores, squared_radii


def drawn(n: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + shift


def by_full_matrices(generated: Tensor, real: Tensor, k: int, strict: bool) -> list[float]:
    """The papers' formulas: every distance at once."""

    def radii(x: Tensor) -> Tensor:
        return torch.cdist(x, x).kthvalue(k + 1).values

    generated, real = generated.double(), real.double()
    d = torch.cdist(real, generated)
    below = torch.lt if strict else torch.le
    in_real, in_generated = below(d, radii(real)[:, None]), below(d, radii(generated)[None])
    shares = [in_real.any(0), in_generated.any(1), in_real, in_real.any(1)]
    precision, recall, density, coverage = (share.double().mean().item() for share in shares)
    return [precision, recall, density * len(real) / k, coverage]


sizes = st.integers(6, 60)


@settings(max_examples=50)
@given(sizes, sizes, st.integers(1, 5), st.booleans(), st.integers(1, 64), st.integers(0, 999))
def test_tiles_give_what_full_matrices_give(n: int, m: int, k: int, strict: bool, tile: int, seed: int) -> None:
    generated, real = drawn(n, 4, seed, 0.3).double(), drawn(m, 4, seed + 1000).double()
    found = neighbour_scores(generated, real, k, strict, tile)
    expected = by_full_matrices(generated, real, k, strict)
    assert [found.precision, found.recall, found.density, found.coverage] == pytest.approx(expected)


def test_many_features_in_float32_give_what_float64_gives() -> None:
    generated, real = drawn(1500, 64, 0, 0.1).relu() + 20, drawn(1300, 64, 1).relu() + 20
    found = neighbour_scores(generated, real, 5, strict=True, tile=256)
    expected = by_full_matrices(generated, real, 5, strict=True)
    ours = [found.precision, found.recall, found.density, found.coverage]
    assert ours == pytest.approx(expected, abs=2 / 1300)  # two samples on a border


def test_radii_are_distances_to_the_kth_other() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert squared_radii(points, 1).tolist() == pytest.approx([1, 1, 4, 16])
    assert squared_radii(points, 2, tile=3).tolist() == pytest.approx([9, 4, 9, 36])


def test_copies_are_within_closed_balls_and_on_the_border_of_open_ones() -> None:
    one = torch.ones(10, 3)
    closed, open_ = neighbour_scores(one, one), neighbour_scores(one, one, strict=True)
    assert (closed.precision, closed.recall) == (1, 1)
    assert (open_.precision, open_.density, open_.coverage) == (0, 0, 0)


def test_far_apart_nothing_is_within_and_alike_almost_all() -> None:
    real = drawn(300, 3, 0)
    far, near = neighbour_scores(real + 100, real), neighbour_scores(drawn(300, 3, 1), real)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    assert min(near.precision, near.recall, near.coverage) > 0.8
    assert near.density == pytest.approx(1, abs=0.2)


def test_precision_and_recall_are_torch_fidelitys() -> None:
    room = pytest.importorskip("torch_fidelity.metric_prc")
    generated, real = drawn(400, 16, 0, 0.4), drawn(500, 16, 1)
    theirs = room.prc_features_to_metric(generated, real, verbose=False)
    ours = neighbour_scores(generated, real, 3)
    assert (ours.precision, ours.recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-3)


def test_all_four_are_prdcs(capsys: pytest.CaptureFixture[str]) -> None:
    room = pytest.importorskip("prdc", reason="prdc is not installed")
    generated, real = drawn(400, 16, 0, 0.4), drawn(500, 16, 1)
    theirs = room.compute_prdc(real.numpy(), generated.numpy(), 5)
    capsys.readouterr()
    ours = neighbour_scores(generated, real, 5, strict=True)
    assert {name: getattr(ours, name) for name in theirs} == pytest.approx(theirs)


@pytest.mark.parametrize("k", [0, 10])
def test_a_neighbour_that_is_not_there_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}; of 10 features it may be 1 to 9"):
        squared_radii(torch.zeros(10, 2), k)


def test_features_of_two_extractors_are_refused() -> None:
    with pytest.raises(ValueError, match="features have 3 and 2 dimensions"):
        neighbour_scores(torch.zeros(10, 3), torch.zeros(10, 2))
