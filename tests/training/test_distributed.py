"""Two processes with half of every batch each train as one with the whole; runs go on in another number of processes.

Real processes, which talk over gloo on this machine, as ``torchrun`` would start them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from poise.training import Recipe, RecipeError, Run, checkpoint, train
from poise.training.processes import Processes, _buckets, finish, start

STEPS = 20
CNN = {"name": "sngan-cnn", "resolution": 16, "width": 2, "latent_dim": 8}
PLAIN = {"model": CNN}
BIGGAN = {"name": "biggan", "resolution": 32, "width": 2, "num_classes": 3, "embedding_dim": 4}
CASES: dict[str, dict[str, Any]] = {
    "batch norm, bssn, R1": {**PLAIN, "d_norm": "bssn", "penalties": [{"name": "r1", "gamma": 1.0, "every": 2}]},
    "in parts, n_dis, own batch size of G": {**PLAIN, "accumulate": 2, "n_dis": 2, "g_batch_size": 12},
    "random penalties": {
        **PLAIN,
        "d_norm": "none",
        "loss": "wasserstein",
        "penalties": [{"name": "wgan-gp"}, {"name": "dragan"}],
    },
    "pairs, γ": {**PLAIN, "loss": "relativistic", "d_norm": {"name": "sn", "gamma": "shared"}},
    "batch norm in D, R1": {
        **PLAIN,
        "model": {"name": "dcgan", "resolution": 16, "width": 2, "latent_dim": 8},
        "d_norm": "sn",
        "penalties": [{"name": "r1", "gamma": 0.1}],
    },
    "conditional batch norm": {"model": BIGGAN, "d_norm": "sn", "g_norm": "sn", "loss": "hinge"},
}
ELASTIC = "batch norm, bssn, R1"
ROUNDING = ("deconvs.0.bias", "deconvs.1.bias", "norms.1.running_mean", "norms.2.running_mean")
"""what in sngan-cnn has no gradient, and what follows it"""


def damped(name: str) -> dict[str, Any]:
    """Optimizers for a case that do not make steps of rounding.

    Adam divides by a gradient's size + ε. Where the gradient is nothing but rounding, as of a bias before batch norm,
    the default ε of 1e-8 makes whole steps of it, in one process as in two. BigGAN's gradients, and so their rounding,
    are a hundred times larger: there one process whose batches are turned around is 4e-5 from itself after 20 steps
    even with ε = 0.01, further than two are from one; so it is trained by gradient descent.
    """
    if CASES[name]["model"] is BIGGAN:
        settings: dict[str, Any] = {"name": "SGD", "lr": 1e-4}
    else:
        settings = {"options": {"eps": 1e-4}}
    return {"g_optimizer": settings, "d_optimizer": settings}


def recipe(name: str, pictures: Path, **changes: Any) -> Recipe:
    given = CASES[name]
    data = {"name": "folder", "path": str(pictures), "resolution": given["model"]["resolution"]}
    common = {"name": "shared", "data": data, "steps": STEPS, "batch_size": 8, "device": "cpu", "precision": "fp32"}
    common |= {"evaluate_every": None}  # an extractor, where one is installed, takes minutes
    return Recipe.parse({**common, **given, **changes})


def silently(recipe: Recipe, out: Path, **options: Any) -> Run:
    return train(recipe, out, bar=False, say=lambda _: None, **options)


def in_two(*jobs: tuple[Recipe, Path, bool]) -> None:
    """Train recipes into folders, resuming or not, one after the other, in two processes that run this file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = json.dumps([[made.model_dump(mode="json"), str(out), resume] for made, out, resume in jobs])
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, words],
            env={**os.environ, **place, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    assert [process.wait() for process in started] == [0, 0]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four pictures."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for index in range(12):
        file = folder / f"class {index % 3}" / f"{index}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (36, 36, 3), dtype=np.uint8)).save(file)
    return folder


@pytest.fixture(scope="module")
def runs(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case in one process and in two, and one half done in the first and gone on with in the other."""
    folder = tmp_path_factory.mktemp("runs")
    jobs: list[tuple[Recipe, Path, bool]] = []
    for number, name in enumerate(CASES):
        made = recipe(name, pictures, **damped(name))
        silently(made, folder / f"one {number}")
        jobs.append((made, folder / f"two {number}", False))
    plain = recipe(ELASTIC, pictures, checkpoint_every=STEPS // 2)
    silently(plain, folder / "one")
    half = half_done(folder / "one", folder / "one, then two")
    in_two(*jobs, (plain, folder / "two", False), (plain, half, True))
    silently(plain, half_done(folder / "two", folder / "two, then one"), resume=True)
    return folder


def half_done(run: Path, copy: Path) -> Path:
    """A copy of a run as it was after half of its steps."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / f"step-{STEPS}")
    return copy


def networks(run: Path) -> dict[str, torch.Tensor]:
    path, _ = checkpoint.newest(run / "checkpoints")
    assert path.name == f"step-{STEPS}"
    saved = checkpoint.load(path).networks
    return {f"{network}.{name}": tensor for network in saved for name, tensor in saved[network].items()}


def losses(run: Path) -> list[tuple[float, float]]:
    """As logged: to six digits."""
    return [(record["d_loss"], record["g_loss"]) for record in Run(run).records() if "d_loss" in record]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name: str, runs: Path) -> None:
    number = list(CASES).index(name)
    one, two = (networks(runs / f"{word} {number}") for word in ("one", "two"))
    vectors = [key for key in one if ".u_" in key or ".v_" in key]  # a weight's change moves them by that over σ's gap
    torch.testing.assert_close([two.pop(key) for key in vectors], [one.pop(key) for key in vectors], rtol=0, atol=1e-4)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    assert losses(runs / f"two {number}") == [
        pytest.approx(pair, rel=1e-5, abs=1e-5) for pair in losses(runs / f"one {number}")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("run", ["two", "one, then two", "two, then one"])
def test_so_they_do_with_adam_as_it_is_wherever_there_is_a_gradient(run: str, runs: Path) -> None:
    """Adam divides a gradient by its size, and a bias before batch norm has none but rounding: its steps are random."""
    one, other = networks(runs / "one"), networks(runs / run)
    noise = [name for name in one if name.startswith(("generator.", "ema.")) and name.partition(".")[2] in ROUNDING]
    assert len(noise) == 2 * len(ROUNDING)
    for name in noise:
        torch.testing.assert_close(other.pop(name), one.pop(name), rtol=0, atol=STEPS * 2e-4)
    torch.testing.assert_close(other, one, rtol=0, atol=1e-5)
    assert losses(runs / run) == [pytest.approx(pair, rel=1e-5, abs=1e-5) for pair in losses(runs / "one")]


@pytest.mark.slow
def test_one_process_writes_and_says_how_many_there_were(runs: Path) -> None:
    one, two = Run(runs / "one 0"), Run(runs / "two 0")
    assert {path.name for path in two.path.iterdir()} == {path.name for path in one.path.iterdir()}
    assert two.recipe.versions["processes"] == "2"
    assert [record["step"] for record in two.records()] == [record["step"] for record in one.records()]
    assert len(list((two.path / "tensorboard").iterdir())) == 1


def launch(out: Path, *words: str) -> subprocess.Popen[str]:
    """The command under ``torchrun`` in two processes."""
    fields = {"model.width": 2, "device": "cpu"}
    flags = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    runner = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*runner, "-m", "poise.cli", "train", "stacked-digits", "--quiet", "--out", str(out), *flags, *words]
    place = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place)


@pytest.mark.slow
def test_a_schedulers_warning_leaves_one_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with launch(run, "--batch_size", "8", "--steps", "100000", "--log_every", "1") as launched:
        while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
            assert launched.poll() is None, launched.communicate()
            time.sleep(0.1)
        launched.send_signal(signal.SIGTERM)
        said = launched.communicate(timeout=300)[1]
    (step,) = checkpoint.steps(run / "checkpoints")
    assert f"poise: stopped after step {step} with a checkpoint; --resume goes on from there" in said
    assert said.count("poise:") == 1
    assert Run(run).records()[-1]["step"] == step


@pytest.mark.slow
def test_a_batch_that_cannot_be_parted_is_said_once(tmp_path: Path) -> None:
    with launch(tmp_path / "run", "--batch_size", "9") as launched:
        said = launched.communicate(timeout=300)[1]
    assert said.count("poise: batch_size is 9; 2 processes need a multiple of 2: nearest 8") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sizes", "parts", "said"),
    [
        ({"batch_size": 9}, 1, "batch_size is 9; 4 processes need a multiple of 4: nearest 8"),
        ({"batch_size": 8, "g_batch_size": 4}, 2, "g_batch_size is 4; 4 processes × accumulate=2 need a multiple of 8"),
        ({"batch_size": 1}, 1, "nearest 4"),
    ],
)
def test_batches_are_the_same_on_every_process(sizes: dict[str, int | None], parts: int, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Processes(rank=1, count=4).check(sizes, parts)
    Processes().check(sizes, 1)


def test_parts_make_up_the_whole_in_order() -> None:
    found = [Processes(rank, 4).part(24, 8) for rank in range(4)]
    assert [place for first, size in found for place in range(first, first + size)] == list(range(24, 32))


def test_a_process_alone_meets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start("cpu") == Processes()
    assert not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="given 'cuda:1'; each process takes its own: allowed are auto, cuda and cpu"):
        start("cuda:1")


def test_what_one_does_for_all_is_done_by_a_process_alone() -> None:
    alone = Processes()
    assert (alone.once(lambda: 3), alone.in_turn(lambda: 4), alone.any(True), alone.any(False)) == (3, 4, True, False)
    signals = {"d_loss": torch.tensor(1.0)}
    assert alone.mean(signals) is signals


def test_gradients_are_sent_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.training.processes.BUCKET", 10)
    tensors = [torch.zeros(n) for n in (4, 6, 1, 25, 3)] + [torch.zeros(2, dtype=torch.float64)]
    assert [[t.numel() for t in bucket] for bucket in _buckets(tensors)] == [[4, 6], [1], [25], [3], [2]]


@pytest.mark.slow
def test_two_processes_are_judged_as_one_and_return_together(pictures: Path, tmp_path: Path) -> None:
    """Rates at which the weights overflow: all return to the first step, twice, and then stop alike."""
    watched = recipe(ELASTIC, pictures, **damped(ELASTIC), monitor_every=5, log_every=5)
    failing = {"steps": 6, "log_every": 1, "on_failure": "rollback", "max_rollbacks": 2}
    broken = recipe(ELASTIC, pictures, d_optimizer={"name": "SGD", "lr": 1e30}, **failing)
    silently(watched, tmp_path / "one")
    in_two((watched, tmp_path / "two", False))
    keys = ("ranking", "real_logit_std", "diversity", "feature_diversity", "coverage", "lipschitz")
    one, two = ([{k: r[k] for k in keys if k in r} for r in Run(tmp_path / n).records()] for n in ("one", "two"))
    assert two == [pytest.approx(record, rel=1e-3) for record in one]
    assert len(two) == STEPS // 5
    with pytest.raises(AssertionError):  # both ended with an error, and neither waits for the other
        in_two((broken, tmp_path / "broken", False))
    ended = Run(tmp_path / "broken")
    assert [record["rollback"]["number"] for record in ended.records() if "rollback" in record] == [1, 2]
    assert json.loads((ended.path / "diagnosis.json").read_text())["verdict"] == "not-finite"


if __name__ == "__main__":
    for values, folder, go_on in json.loads(sys.argv[1]):
        silently(Recipe.parse(values), Path(folder), resume=go_on)
    finish()
