"""Operator norm of a convolution, 128 → 128 channels, 3×3, padding 1, on 32×32 images: time and error of seven ways.

- power iteration: ``x ← AᵀAx/‖AᵀAx‖`` in float32, as many rounds as this weight needs (the median of three seeds) for
  an error of 5e-4; plain, and as deel-torchlip's loop does it.
- Lanczos: 30 rounds from noise.
- poise: ``singular_values(layer, 1, "conv", 32, tol=5e-4)``, which decides on its rounds itself.
- FFT bound: the largest singular value of any frequency's matrix, exact for circular padding (Sedghi et al. 2019).
- Gram iteration: a bound on the same, six iterations (Delattre et al. 2023, arXiv 2305.16173, algorithm 3).
- deel-torchlip: its bound, the reshaped weight's norm over its factor for padded convolutions (arXiv 2006.06520).

Errors are relative to ARPACK's value in float64; positive where a way overestimates. deel-torchlip is left out where it
cannot be imported (``pip install --no-deps deel-torchlip``, anywhere on PYTHONPATH).

    python benchmarks/operator_norm.py

Writes ``benchmarks/results/operator_norm.csv`` and ``.png``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
from timing import RESULTS, interleaved, write_csv
from torch import Tensor, nn

from poise.spectra import LinearMap, conv_map, golub_kahan, singular_values

CHANNELS, SIZE, TOLERANCE = 128, 32, 5e-4
MOST_ROUNDS, TURNS = 1000, 3


def weights() -> dict[str, Tensor]:
    """Of one shape: as torch initializes it, orthogonal, and with a spectrum that decays as a trained one's."""
    generator = torch.Generator().manual_seed(0)
    shape = (CHANNELS, CHANNELS, 3, 3)
    uniform = nn.init.kaiming_uniform_(torch.empty(shape), a=5**0.5, generator=generator)
    left, _, right = torch.linalg.svd(torch.randn(CHANNELS, CHANNELS * 9, generator=generator), full_matrices=False)
    decaying = left * torch.arange(1, CHANNELS + 1) ** -0.5 @ right
    return {
        "torch's default": uniform,
        "orthogonal": (left @ right).view(shape),
        "decaying spectrum": decaying.view(shape),
    }


def reference(layer: nn.Module) -> float:
    """The norm from ARPACK, in float64."""
    exact = conv_map(layer, SIZE)

    def applied(apply: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Callable[[Any], Any]:
        return lambda x: apply(torch.from_numpy(np.ascontiguousarray(x)).view(1, *shape)).flatten().numpy()

    operator = scipy.sparse.linalg.LinearOperator(
        exact.shape,
        matvec=applied(exact.matvec, exact.in_shape),
        rmatvec=applied(exact.rmatvec, exact.out_shape),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).standard_normal(exact.shape[1])
    values = scipy.sparse.linalg.svds(operator, 4, ncv=40, tol=1e-7, v0=start, return_singular_vectors=False)
    return float(max(values))


def power_values(linear_map: LinearMap, rounds: int, seed: int) -> list[Tensor]:
    """``‖Ax‖`` after each round of power iteration from noise."""
    x = torch.randn(1, *linear_map.in_shape, generator=torch.Generator().manual_seed(seed))
    values = []
    for _ in range(rounds):
        x = x / x.norm()
        y = linear_map.matvec(x)
        values.append(y.norm())
        x = linear_map.rmatvec(y)
    return values


def rounds_needed(linear_map: LinearMap, true: float) -> tuple[int, int]:
    """Rounds of power iteration until the error is at most ``TOLERANCE``, and the seed: the median of three."""
    needed = []
    for seed in range(3):
        values = torch.stack(power_values(linear_map, MOST_ROUNDS, seed))
        needed.append((1 + int((values < true * (1 - TOLERANCE)).sum()), seed))
    return sorted(needed)[1]


def fft_bound(weight: Tensor) -> Tensor:
    matrices = torch.fft.rfft2(weight, (SIZE, SIZE)).permute(2, 3, 0, 1)
    return torch.linalg.matrix_norm(matrices, 2).max()


def gram_iteration(weight: Tensor, iterations: int = 6) -> Tensor:
    """``‖G_i‖_F^(2^-i)`` for ``G_(i+1) = G_iᴴ G_i``, rescaled to length 1 each time, at each frequency."""
    matrices = torch.fft.rfft2(weight, (SIZE, SIZE)).permute(2, 3, 0, 1)
    logarithm = torch.zeros(matrices.shape[:2])
    for _ in range(iterations):
        length = torch.linalg.matrix_norm(matrices)
        matrices = matrices / length[..., None, None]
        matrices = matrices.mH @ matrices
        logarithm = 2 * (logarithm + length.log())
    logarithm = logarithm + torch.linalg.matrix_norm(matrices).log()
    return (logarithm / 2**iterations).exp().max()


def deel_ways(weight: Tensor, linear_map: LinearMap, rounds: int, seed: int) -> dict[str, Callable[[], Tensor]]:
    try:
        from deel.torchlip.normalizers import _power_iteration, spectral_normalization
        from deel.torchlip.utils.lconv_norm import compute_lconv_coef
    except ImportError as error:
        print(f"deel-torchlip left out: {error}")
        return {}

    def iterated() -> Tensor:
        x = torch.randn(1, linear_map.shape[1], generator=torch.Generator().manual_seed(seed))
        x = _power_iteration(
            lambda x: linear_map.matvec(x.view(1, *linear_map.in_shape)),
            lambda y: linear_map.rmatvec(y).flatten(1),
            x,
            eps=0.0,
            maxiter=rounds,
        )
        return linear_map.matvec(x.view(1, *linear_map.in_shape)).norm()

    def bound() -> Tensor:
        sigma = spectral_normalization(weight.flatten(1), maxiter=100)[2]
        return sigma / compute_lconv_coef((3, 3), (CHANNELS, SIZE, SIZE), (1, 1), "zeros")

    return {"deel-torchlip, iteration": iterated, "deel-torchlip, bound": bound}


def measure(name: str, weight: Tensor) -> list[dict[str, Any]]:
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
    layer.weight.data = weight
    linear_map = conv_map(layer, SIZE, torch.float32)
    true = reference(layer)
    rounds, seed = rounds_needed(linear_map, true)
    ways: dict[str, Callable[[], Tensor]] = {
        "power iteration": lambda: power_values(linear_map, rounds, seed)[-1],
        "Lanczos, 30 rounds": lambda: golub_kahan(linear_map, 1, 30, tol=1e-9, spare=0).values[0],
        "poise": lambda: singular_values(layer, 1, "conv", SIZE, tol=TOLERANCE)[0],
        "FFT bound": lambda: fft_bound(weight),
        "Gram iteration": lambda: gram_iteration(weight),
        **deel_ways(weight, linear_map, rounds, seed),
    }
    medians = interleaved(ways, TURNS)
    rows = []
    for way, seconds in medians.items():
        error, speed = float(ways[way]()) / true - 1, medians["power iteration"] / seconds
        row = {"weight": name, "way": way, "rounds": rounds if "iteration" in way and "Gram" not in way else ""}
        rows.append(row | {"milliseconds": f"{seconds * 1e3:.1f}", "error": f"{error:+.1e}", "speed": f"{speed:.1f}"})
        print(f"{name:18} {way:25} {seconds * 1e3:8.1f} ms  error {error:+.1e}  {speed:6.1f} × as fast", flush=True)
    print(f"{name:18} power iteration needed {rounds} rounds for {TOLERANCE:.0e}", flush=True)
    return rows


def plot(rows: list[dict[str, Any]]) -> None:
    """Error over time, a panel for each weight."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["weight"] for row in rows))
    figure, panels = plt.subplots(1, len(names), figsize=(3.2 * len(names), 3.8), sharey=True, layout="constrained")
    for name, axes in zip(names, panels, strict=True):
        for row in rows:
            if row["weight"] == name:
                error = max(abs(float(row["error"])), 1e-7)
                axes.loglog(float(row["milliseconds"]), error, "o", label=row["way"])
        axes.axhline(TOLERANCE, color="grey", ls="--", lw=1)
        axes.set(title=name, xlabel=f"time, ms ({torch.get_num_threads()} threads)")
    panels[0].set_ylabel("relative error of the operator norm")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=4)
    figure.savefig(RESULTS / "operator_norm.png", dpi=120)


def main() -> None:
    with torch.no_grad():
        rows = [row for name, weight in weights().items() for row in measure(name, weight)]
    write_csv(rows, "operator_norm.csv")
    plot(rows)


if __name__ == "__main__":
    main()
