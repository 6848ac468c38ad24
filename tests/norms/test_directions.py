"""A weight times a vector, in either reading and any layout, against the matrix written out."""

import pytest
import torch
from torch import Tensor

from poise.norms.directions import Columns, Direction, Rows

WEIGHTS = {
    "linear": (5, 7),
    "large linear": (200, 180),
    "small kernel": (6, 4, 3, 3),
    "large, 1d": (96, 128, 3),
    "large, 2d": (64, 72, 3, 3),
    "large, 3d": (16, 20, 5, 5, 5),
    "large, of two entries": (128, 160, 2),
    "large, of one entry": (192, 176, 1, 1),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", WEIGHTS.values(), ids=list(WEIGHTS))
@pytest.mark.parametrize("direction", [Rows(), Columns()], ids=["rows", "columns"])
def test_products_are_those_of_the_matrix(direction: Direction, shape: tuple[int, ...], channels_last: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64, generator=draw)
    matrix = (weight.movedim(1, 0) if isinstance(direction, Columns) else weight).flatten(1)
    u, v = (torch.randn(size, dtype=torch.float64, generator=draw) for size in matrix.shape)
    if channels_last and weight.ndim == 4:
        weight = weight.to(memory_format=torch.channels_last)
    for product, vector, wanted in zip(direction.products(weight), (u, v), (matrix.t() @ u, matrix @ v), strict=True):
        torch.testing.assert_close(product(vector), wanted)
        out = torch.full_like(wanted, torch.nan)
        product(vector, out=out)
        torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize("shape", WEIGHTS.values(), ids=list(WEIGHTS))
@pytest.mark.parametrize("direction", [Rows(), Columns()], ids=["rows", "columns"])
def test_the_derivative_of_sigma_is_what_autograd_finds(direction: Direction, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, dtype=torch.float64, generator=draw, requires_grad=True)
    rows = shape[1] if isinstance(direction, Columns) else shape[0]
    u: Tensor = torch.randn(rows, dtype=torch.float64, generator=draw)
    v: Tensor = torch.randn(weight.numel() // rows, dtype=torch.float64, generator=draw)
    direction.sigma(weight, u, v).backward()
    found = torch.zeros_like(weight.detach())
    direction.add_derivative_(found, u, v, 1.0)
    torch.testing.assert_close(found, weight.grad)
