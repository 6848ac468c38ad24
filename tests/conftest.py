"""What all tests share: one thread, a cache of their own, and recipes that train in under a second."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# A busy machine is no failure, and a shared check gives the same answer twice; at a desk new examples are tried.
settings.register_profile("poise", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("poise")

TINY = {
    "name": "tiny",
    "data": {"name": "stacked-digits", "resolution": 16},
    "model": {"name": "sngan-cnn", "resolution": 16, "width": 2, "latent_dim": 8},
    "steps": 4,
    "batch_size": 8,
    "evaluation_samples": 20,
    "device": "cpu",
    "precision": "fp32",
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The digit classifier is trained once a session. Parallel workers share it: its file is replaced at once."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POISE_CACHE", str(shared / "poise-cache"))
        yield


@pytest.fixture(scope="module", params=["kernels", "operators"])
def arithmetic(request: pytest.FixtureRequest) -> Iterator[None]:
    """For modules whose weights are small: once as installed, once as where no compiler was found."""
    from poise import kernels

    if request.param == "kernels":
        if not kernels.is_built():
            pytest.skip("installed without a compiler")
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_cpu", None)
        yield


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """``tiny(steps=6, **{"d_norm.name": "sn"})``: a recipe that trains in a moment, with overrides."""
    from poise.training import Recipe

    def recipe(**overrides: Any) -> Recipe:
        return Recipe.parse(TINY, overrides)

    return recipe


@pytest.fixture(scope="session")
def finished(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished, reported run. Read it only; ``run_copy`` is for tests that write."""
    from poise.api import train

    recipe = tiny(steps=6, log_every=2, sample_every=3, checkpoint_every=2, evaluate_every=4)
    return train(recipe, tmp_path_factory.mktemp("finished") / "run", bar=False, say=lambda _: None)


@pytest.fixture
def run_copy(finished: Any, tmp_path: Path) -> Any:
    """A copy of the finished run, to be damaged or resumed."""
    from poise.training import Run

    return Run(shutil.copytree(finished.path, tmp_path / "run"))
