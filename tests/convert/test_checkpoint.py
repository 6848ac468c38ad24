"""Files of other libraries, whatever they wrap their weights in; our own form; and files that are none of these."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from poise import convert
from poise.convert.checkpoint import Conversion, Reader, count
from poise.models import create
from poise.norms import normalize, normalized_weights


class Wicked:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def state(original):
    return original("biggan_pytorch", "discriminator 32")[0]


@pytest.fixture
def expected(state, tmp_path, answer):
    torch.save(state, tmp_path / "plain.pth")
    return answer(convert.load(tmp_path / "plain.pth"))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"state_dict": state, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "step": 7},
        lambda state: {"step": 7, "net": state},
        lambda state: {"state_dict": state, "best_fid": np.float64(7.5), "best_step": np.int64(3)},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "other": state},
        lambda state: {key: value.double() for key, value in state.items()},
    ],
    ids=["state_dict", "another name", "numpy", "parallel", "both", "double"],
)
def test_weights_are_found_in_what_is_around_them(wrapped, state, expected, answer, tmp_path):
    torch.save(wrapped(state), tmp_path / "wrapped.pth")
    assert answer(convert.load(tmp_path / "wrapped.pth")) == pytest.approx(expected, rel=1e-5)


def test_safetensors_are_read_whatever_their_ending(state, expected, answer, tmp_path):
    for name in ("network.safetensors", "network.bin"):
        save_file(state, tmp_path / name)
        assert answer(convert.load(tmp_path / name)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", ["generator 32", "generator plain weights", "discriminator 32"])
def test_what_was_converted_is_read_back(case, original, answer, tmp_path):
    torch.save(original("biggan_pytorch", case)[0], tmp_path / "theirs.pth")
    out = convert.convert(tmp_path / "theirs.pth", tmp_path / "new" / "ours.safetensors")
    assert sorted(path.name for path in out.parent.iterdir()) == ["ours.json", "ours.safetensors"]
    theirs, ours = convert.load(tmp_path / "theirs.pth"), convert.load(out)
    assert answer(ours) == pytest.approx(answer(theirs), rel=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert not ours.training
    assert [weight.name for weight in normalized_weights(ours)] == [w.name for w in normalized_weights(theirs)]


def test_the_description_rebuilds_the_network(state, expected, answer, tmp_path):
    torch.save(state, tmp_path / "theirs.pth")
    out = convert.convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    found = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert sorted(found) == ["architecture", "network", "norm", "options"]
    assert (found["network"], found["norm"]) == ("discriminator", "sn")
    _, d = create(found["architecture"], norm=found["norm"], **found["options"])
    d.load_state_dict(load_file(out))
    assert answer(d.eval()) == pytest.approx(expected, rel=1e-5)


def test_every_network_keeps_its_options_for_both_players(state):
    found = convert.biggan_pytorch.convert(state)
    g, _ = create(found.architecture, **found.options)
    assert (g.resolution, g.num_classes) == (32, 3)


def test_nothing_but_weights_is_unpickled(tmp_path):
    torch.save({"state_dict": Wicked(tmp_path / "written")}, tmp_path / "wicked.pth")
    (tmp_path / "wicked.pkl").write_bytes(pickle.dumps(Wicked(tmp_path / "written"), protocol=2))
    for name in ("wicked.pth", "wicked.pkl"):
        with pytest.raises(ValueError, match="holds more than weights, or is damaged; only weights are read"):
            convert.load(tmp_path / name)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"a": torch.ones(2), "b": torch.ones(1)}, r"holds 2 tensors with the keys of no known library \(.*\): a, b$"),
        ({"G": {"a": torch.ones(2)}, "D": {"a": torch.ones(2)}}, "holds several state dicts: G, D; save the one"),
        ({"step": 3, "rate": 0.1}, "holds no state dict; its keys: step, rate$"),
        ({}, "holds no state dict; its keys: none$"),
        ([torch.ones(1)], "holds a list; expected: a state dict"),
    ],
)
def test_what_is_no_network_is_told(content, told, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    for function in (convert.load, lambda path: convert.convert(path, tmp_path / "out" / "new.safetensors")):
        with pytest.raises(ValueError, match=told):
            function(tmp_path / "file.pth")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda _: b"", lambda _: b"text" * 9])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_damaged_file_is_told(damage, ending, state, tmp_path):
    path = tmp_path / f"file.{ending}"
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"file.* (cannot be read|holds more than weights, or is damaged)"):
        convert.load(path)


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.pth"):
        with pytest.raises(FileNotFoundError, match="is no file; give a checkpoint"):
            convert.load(path)


def test_a_partial_file_is_told_and_nothing_written(state, tmp_path):
    del state["blocks.1.0.conv1.bias"]
    torch.save(state, tmp_path / "part.pth")
    out = tmp_path / "out.safetensors"
    with pytest.raises(
        ValueError, match=r"part.pth seems to be of BigGAN-PyTorch, but .* 1 missing: blocks.1.0.conv1.bias"
    ):
        convert.convert(tmp_path / "part.pth", out)
    assert [path.name for path in tmp_path.iterdir()] == ["part.pth"]


@pytest.mark.parametrize(
    ("file", "case", "key"),
    [
        ("biggan_pytorch", "generator 32", "linear.weight"),
        ("biggan_pytorch", "discriminator 32", "embed.weight"),
        ("studiogan", "big generator 32", "blocks.0.0.conv2d1.weight_orig"),
        ("pretrained_biggan", "generator 128", "embeddings.weight"),
    ],
)
@pytest.mark.parametrize("shape", [(1,), (1, 1, 1, 1), ()])
def test_weights_of_other_shapes_are_told(file, case, key, shape, original, tmp_path):
    state, _ = original(file, case)
    torch.save(state | {key: torch.zeros(shape)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth seems to be of .*, but "):
        convert.load(tmp_path / "odd.pth")


def test_the_name_of_what_is_written_is_checked_first(tmp_path):
    with pytest.raises(ValueError, match=r"^out is .*out\.pth; its name must end in \.safetensors: nearest"):
        convert.convert(tmp_path / "nothing.pth", tmp_path / "out.pth")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("no json", r"does not describe a network; convert its checkpoint again$"),
        ('{"architecture": "biggan"}', r"does not describe a network"),
        ({"architecture": "bigan"}, r"unknown model 'bigan'; did you mean 'biggan"),
        ({"options": {"witdh": 3}}, r"has no option 'witdh'; did you mean 'width'"),
        ({"network": "critic"}, r"unknown network 'critic'; "),
        ({"options": [1, 2]}, r"does not describe a network"),
        ({"norm": "snn"}, r"unknown norm 'snn'; did you mean"),
        ({"network": "generator"}, r"does not hold the biggan generator it should"),
    ],
)
def test_a_damaged_description_is_told(changed, told, state, tmp_path):
    torch.save(state, tmp_path / "theirs.pth")
    out = convert.convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    words = out.with_suffix(".json")
    whole = json.loads(words.read_text(encoding="utf-8"))
    words.write_text(changed if isinstance(changed, str) else json.dumps(whole | changed), encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        convert.load(out)


def test_a_conversion_without_vectors_is_normalized_everywhere():
    torch.manual_seed(0)
    _, d = create("sngan-cnn", resolution=16, width=2)
    state = {key: value.clone() for key, value in d.state_dict().items()}
    built = Conversion("sngan-cnn", {"resolution": 16, "width": 2}, "discriminator", "sn", state, {}).build()
    normalize(d, "sn")
    assert [weight.name for weight in normalized_weights(built)] == [weight.name for weight in normalized_weights(d)]


def test_reordered_weights_keep_their_singular_vectors():
    # uᵀWv is the same number, whatever the order in which rows and columns are counted.
    torch.manual_seed(0)
    options = {"resolution": 16, "width": 2, "latent_dim": 6}
    weight, u, v = torch.randn(128, 6), torch.randn(128), torch.randn(6)
    reader = Reader(
        {"x.weight_orig": weight, "x.weight_u": u, "x.weight_v": v, "x.bias": torch.zeros(128)},
        *("sngan-cnn", options, "generator"),
    )
    reader.layer("linear", "x", change=lambda w: w.view(4, 4, 8, 6).permute(2, 0, 1, 3).reshape(128, 6).roll(2, 1))
    new_u, new_v = reader.vectors["linear"]
    torch.testing.assert_close(new_u @ reader.state["linear.weight"] @ new_v, u @ weight @ v)
    torch.testing.assert_close(new_u.view(8, 4, 4)[3, 1, 2], u.view(4, 4, 8)[1, 2, 3])


def test_a_reader_that_forgot_a_tensor_says_so():
    options = {"resolution": 16, "width": 2, "latent_dim": 6}
    with pytest.raises(
        ValueError, match=r"sngan-cnn generator: \d+ without a counterpart: linear\.weight, linear\.bias, "
    ):
        Reader({}, "sngan-cnn", options, "generator").finish()


def test_blocks_are_counted_to_the_last():
    state = {"blocks.0.a": torch.ones(1), "blocks.10.b": torch.ones(1), "other.12.a": torch.ones(1)}
    assert count(state, r"blocks\.(\d+)\.") == 11
