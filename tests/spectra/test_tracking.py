"""Spectra followed round by round, against singular value decompositions in float64."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from poise.norms import normalize
from poise.spectra import SpectrumTracker, tracking
from poise.spectra.jacobi import jacobi_svd
from poise.spectra.tracking import subspace_round

pytestmark = pytest.mark.usefixtures("arithmetic")
SIZES = st.integers(1, 24)
SEEDS = st.integers(0, 2**31)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_orthonormal(rows):
    torch.testing.assert_close(rows @ rows.t(), torch.eye(len(rows), dtype=rows.dtype), rtol=0, atol=1e-5)


@given(SIZES, SIZES, st.data(), SEEDS, st.sampled_from([1e-6, 1.0, 1e6]))
def test_a_round_gives_triples_and_never_passes_the_true_values(rows, columns, data, seed, scale):
    count = data.draw(st.integers(1, min(rows, columns)))
    matrix, basis = randn(rows, columns, seed=seed), scale * randn(count, columns, seed=seed + 1)
    left, values, right = subspace_round(matrix, basis)
    assert (left.shape, values.shape, right.shape) == ((count, rows), (count,), (count, columns))
    assert_orthonormal(left)
    assert_orthonormal(right)
    true = torch.linalg.svdvals(matrix.double())[:count]
    slack = float(true[0]) * 1e-5
    torch.testing.assert_close(left @ matrix, values[:, None] * right, rtol=0, atol=slack)
    assert (values[1:] <= values[:-1]).all()
    assert (values.double() <= true + slack).all()


@given(SIZES, SIZES, SEEDS)
def test_a_basis_of_the_whole_space_gives_every_value_at_once(rows, columns, seed):
    matrix = randn(rows, columns, seed=seed)
    left, values, right = subspace_round(matrix, randn(min(rows, columns), columns, seed=seed + 1))
    torch.testing.assert_close(values, torch.linalg.svdvals(matrix), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left.t() @ torch.diag(values) @ right, matrix, rtol=1e-3, atol=1e-3)


def test_rounds_converge_and_tell_repeated_values_apart():
    turn, other = torch.linalg.qr(randn(40, 40, dtype=torch.float64)).Q, torch.linalg.qr(randn(40, 40, seed=1)).Q
    spectrum = torch.tensor([3.0, 3.0, 2.0, *[1.0] * 37], dtype=torch.float64)
    matrix, basis = turn @ torch.diag(spectrum) @ other.double(), randn(3, 40, dtype=torch.float64)
    for _ in range(30):
        _, values, basis = subspace_round(matrix, basis)
    torch.testing.assert_close(values, spectrum[:3], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (torch.zeros(4, 6), [0.0, 0.0]),
        (torch.outer(torch.ones(4), torch.full((9,), 2.0)), [12.0, 0.0]),
        (torch.eye(5) * 0.7, [0.7, 0.7]),
        (torch.tensor([[3e-30, 0.0], [0.0, 1e-30]]), [3e-30, 1e-30]),
        (torch.tensor([[3e30, 0.0], [0.0, 1e30]]), [3e30, 1e30]),
    ],
    ids=["zero", "rank one", "orthogonal", "tiny", "huge"],
)
def test_known_spectra(matrix, expected):
    left, values, right = subspace_round(matrix, randn(2, matrix.shape[1]))
    torch.testing.assert_close(values, torch.tensor(expected), rtol=1e-5, atol=1e-5 * expected[0])
    assert_orthonormal(left)
    assert_orthonormal(right)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_matrix_that_says_nothing_leaves_the_space_as_it_was(bad):
    matrix, basis = randn(12, 9), randn(3, 9, seed=1)
    for _ in range(60):
        _, values, basis = subspace_round(matrix, basis)
    left, lost, kept = subspace_round(torch.full_like(matrix, bad), basis)
    assert lost.isnan().all() if bad else (lost == 0).all()
    assert_orthonormal(left)
    assert_orthonormal(kept)
    torch.testing.assert_close(subspace_round(matrix, kept)[1], values, rtol=1e-5, atol=0)


def test_one_nan_is_enough():
    matrix = randn(12, 9)
    matrix[3, 4] = math.nan
    _, values, basis = subspace_round(matrix, randn(2, 9))
    assert values.isnan().all()
    assert basis.isfinite().all()


def test_half_precision_and_autocast_compute_in_float32():
    matrix, basis = randn(20, 30), randn(3, 30)
    half = subspace_round(matrix.bfloat16(), basis)[1]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, subspace_round(matrix.bfloat16().float(), basis)[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(subspace_round(matrix, basis)[1], subspace_round(matrix, basis.clone())[1])
        inside = subspace_round(matrix, basis)[1]
    assert torch.equal(inside, subspace_round(matrix, basis)[1])


@pytest.mark.parametrize("shapes", [((3, 4), (1, 3)), ((3, 4), (4, 4)), ((3, 4, 1), (1, 4)), ((3, 4), (4,))])
def test_says_what_is_wrong_with_shapes(shapes):
    matrix, basis = (torch.ones(*shape) for shape in shapes)
    with pytest.raises(ValueError, match="needed: \\(m, n\\) and \\(b, n\\) with b at most min"):
        subspace_round(matrix, basis)


def network():
    """Convolutions of every orientation, two of one shape, one with fewer than 3 values, one wider than it is long."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 16 * 16, 24), nn.ReLU(), nn.Linear(24, 1)),
    )


def true_values(layer, k=3):
    weight = layer.weight.detach().double()
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.movedim(1, 0)
    return torch.linalg.svdvals(weight.flatten(1))[:k]


def assert_near(found, module, k=3, rtol=1e-3):
    for name, values in found.items():
        true = true_values(module.get_submodule(name), k)
        assert values.shape == true.shape
        torch.testing.assert_close(values.double(), true, rtol=rtol, atol=1e-30)
        assert (values.double() <= true * (1 + 1e-5)).all()


@pytest.mark.parametrize("k", [1, 3, 30])
@pytest.mark.parametrize("direct_rows", [0, tracking.DIRECT_ROWS])
def test_the_first_call_is_right(k, direct_rows, monkeypatch):
    monkeypatch.setattr(tracking, "DIRECT_ROWS", direct_rows)
    module = network()
    found = SpectrumTracker(module, k)()
    assert list(found) == ["0", "3", "5", "7", "10", "12"]
    assert all(values.dtype == torch.float32 and not values.requires_grad for values in found.values())
    assert_near(found, module, k)


@pytest.mark.parametrize("lr", [2e-4, 5e-4])
def test_training_is_followed(lr):
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr, betas=(0.0, 0.9))
    tracker = SpectrumTracker(module)
    for step in range(12):
        images = randn(8, 3, 8, 8, seed=step)
        loss = F.softplus(-module(images)).mean() + F.softplus(module(images.roll(1, -1))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_near(tracker(), module)


@given(st.integers(1, 20), st.integers(1, 20), SEEDS)
def test_a_drifting_weight_of_any_shape_is_followed(rows, columns, seed):
    layer = nn.Linear(columns, rows)
    layer.weight.data = randn(rows, columns, seed=seed)
    tracker = SpectrumTracker(layer)
    for step in range(6):
        layer.weight.data += 2e-3 * randn(rows, columns, seed=seed + step)
        assert_near(tracker(), layer)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda tracker: pickle.loads(pickle.dumps(tracker))])
def test_a_copy_follows_on_its_own(copied):
    module = network()
    tracker = SpectrumTracker(module)
    tracker()
    before = copy.deepcopy(tracker.bases)
    twin = copied(tracker)
    for layer in twin.layers.values():
        layer.weight.data += 0.1 * randn(*layer.weight.shape)
    for _ in range(40):
        found = twin()
    for name, values in found.items():
        torch.testing.assert_close(values.double(), true_values(twin.layers[name]), rtol=1e-3, atol=1e-30)
        assert torch.equal(tracker.bases[name], before[name])
    assert_near(tracker(), module)


def test_a_small_value_beside_a_large_one_keeps_its_digits():
    layer = nn.Linear(30, 20)
    left, right = torch.linalg.qr(randn(20, 20)).Q, torch.linalg.qr(randn(30, 20)).Q
    layer.weight.data = left * torch.tensor([300.0, 2.0, 1.0, *[0.01] * 17]) @ right.t()
    tracker = SpectrumTracker(layer)
    for _ in range(3):
        assert_near(tracker(), layer, rtol=1e-4)


def test_a_loaded_weight_is_reached_in_time_and_after_a_reset_at_once():
    layer = nn.Linear(40, 20)
    tracker = SpectrumTracker(layer)
    tracker()
    layer.weight.data = randn(20, 40, seed=3) * torch.linspace(3, 1, 20)[:, None]
    for _ in range(40):
        found = tracker()
    assert_near(found, layer)
    layer.weight.data = randn(20, 40, seed=4)
    tracker.reset()
    assert_near(tracker(), layer)


def test_a_weight_of_another_shape_or_type_is_begun_anew():
    module = network()
    tracker = SpectrumTracker(module)
    tracker()
    module[12] = nn.Linear(24, 1)
    module[10].weight = nn.Parameter(randn(30, 50))
    module.double()
    found = tracker()
    assert found["3"].dtype == torch.float64
    assert_near({name: found[name] for name in ("0", "3", "5", "7", "10")}, module)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("at_first", [True, False])
def test_a_weight_that_says_nothing_does_no_lasting_harm(bad, at_first):
    module = network()
    tracker = SpectrumTracker(module)
    good = copy.deepcopy(module.state_dict())
    if not at_first:
        tracker()
    module[3].weight.data.fill_(bad)
    found = tracker()
    assert (found["3"] == 0).all() if bad == 0 else found["3"].isnan().all()
    assert_near({name: found[name] for name in ("0", "5")}, module)
    module.load_state_dict(good)
    for _ in range(60 if at_first else 1):
        found = tracker()
    assert_near(found, module)


NORMALIZED = {
    "sn": lambda: normalize(nn.Conv2d(2, 6, 3), "sn"),
    "bssn": lambda: normalize(nn.Conv2d(2, 6, 3), "bssn"),
    "torch": lambda: parametrizations.spectral_norm(nn.Conv2d(2, 6, 3)),
    "torch, hooks": lambda: spectral_norm(nn.Conv2d(2, 6, 3)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(2, 6, 3)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("which", tracking.WHICH)
@pytest.mark.parametrize("build", NORMALIZED.values(), ids=NORMALIZED)
def test_a_normalized_layer_is_read_either_way_and_left_alone(build, which, training):
    torch.manual_seed(0)
    layer = build().train(training)
    layer(torch.ones(1, 2, 5, 5)).sum().backward()
    before = copy.deepcopy(layer.state_dict())
    tracker = SpectrumTracker(layer, which=which)
    for _ in range(3):
        found = tracker()[""]
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    assert layer.training is training
    original = [name for name in before if name.endswith(("weight.original", "weight_orig"))]
    weight = before[original[0]] if which == "original" and original else layer.eval().weight.detach()
    torch.testing.assert_close(found, torch.linalg.svdvals(weight.flatten(1))[:3], rtol=1e-4, atol=0)


def test_layers_of_one_shape_do_not_disturb_each_other():
    layers = [nn.Linear(70, 50) for _ in range(3)]
    module = nn.Sequential(*layers)
    together, alone = SpectrumTracker(module), [SpectrumTracker(layer) for layer in layers]
    for _ in range(2):
        found = together()
        for index, tracker in enumerate(alone):
            torch.testing.assert_close(found[str(index)], tracker()[""], rtol=1e-5, atol=0)
    layers[1].weight.data.fill_(math.nan)
    found = together()
    assert found["1"].isnan().all()
    assert_near({name: found[name] for name in ("0", "2")}, module)


def test_a_round_on_a_device_gives_what_one_on_the_host_does(monkeypatch):
    matrix, basis = randn(20, 30), randn(4, 30, seed=1)
    expected = subspace_round(matrix, basis)
    monkeypatch.setattr(tracking, "small_svd", jacobi_svd)
    left, values, right = subspace_round(matrix, basis)
    torch.testing.assert_close(values, expected[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(left @ matrix, values[:, None] * right, rtol=0, atol=1e-4)


def test_the_same_every_time_whatever_autocast_and_the_global_generator_do():
    module = network()
    state = torch.get_rng_state()
    first = SpectrumTracker(module)()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        again = SpectrumTracker(module)()
    assert all(torch.equal(again[name], values) for name, values in first.items())


def test_half_precision_weights_are_read_in_float32():
    layer = nn.Linear(30, 20).bfloat16()
    found = SpectrumTracker(layer)()
    assert found[""].dtype == torch.float32
    assert_near(found, layer)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SpectrumTracker(nn.Linear(3, 3), 0), "k is 0; follow at least 1"),
        (lambda: SpectrumTracker(nn.Linear(3, 3), which="raw"), "unknown weight 'raw'; known: effective, original"),
        (lambda: SpectrumTracker(nn.BatchNorm1d(3)), "BatchNorm1d has no layer with a weight of 2 or more dimensions"),
        (lambda: SpectrumTracker(nn.Sequential(nn.LazyLinear(3))), "has no weight yet; run one batch"),
    ],
)
def test_says_what_is_wrong_with_the_question(call, message):
    with pytest.raises(ValueError, match=message):
        call()
