"""The doctor on logs of other programs and of ours: fields recognised, verdicts right, refusals in one line."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from poise import cli
from poise.monitor import Verdict, diagnose
from poise.monitor.logs import parse_names, read_log
from tests.monitor.histories import PATTERNS, healthy, pattern

NAMES = {  # of (d_loss, g_loss, real_logit, fake_logit, gradient of G) in some programs' logs
    "plain": ("d_loss", "g_loss", "real_logit", "fake_logit", "gradient_norm/G.all"),
    "slashes": ("Loss/D/loss", "Loss/G/loss", "Loss/scores/real", "Loss/scores/fake", "grad_norm/G"),
    "camel": ("lossD", "lossG", "D(x)", "D(G(z))", "generator/grad_norm"),
    "towards": ("netD/loss", "loss/G_GAN", "logits/real", "out_D_fake", "grad_norm/G"),
    "totals": ("training/disc_loss_total", "training/gen_loss_total", "disc_real_mean", "dgz", "G.grad_norm"),
    "words": ("train/discriminator_loss", "train/generator_loss", "logits_real", "logits_fake", "gradients_norm.gen"),
}


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def renamed(records: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    d_loss, g_loss, real, fake, gradient = names
    return [
        {
            "step": record["step"],
            d_loss: record["d_loss"],
            g_loss: record["g_loss"],
            real: record["real_logit"],
            fake: record["fake_logit"],
            gradient: record["gradient_norm"]["G.conv"],
            "epoch_time": 3.5,
        }
        for record in records
    ]


@pytest.mark.parametrize("style", NAMES)
def test_fields_are_recognised_by_the_names_people_give_them(style: str, tmp_path: Path) -> None:
    records = read_log(lines(tmp_path / "log.jsonl", renamed(healthy(), NAMES[style]))).records
    first = healthy()[0]
    for signal in ("d_loss", "g_loss", "real_logit", "fake_logit"):
        assert records[0][signal] == first[signal], signal
    assert list(records[0]["gradient_norm"].values()) == [first["gradient_norm"]["G.conv"]]
    assert all(layer.startswith("G.") for layer in records[0]["gradient_norm"])


@pytest.mark.parametrize(
    "tag",
    [
        *("lr_D", "loss_G_L1", "d_r1_loss", "D_acc_real", "val/d_loss", "gan_loss", "gradient_penalty", "kl_loss"),
        *("real_loss", "D_loss_weight", "g_x", "fid", "loss_D_A"),
    ],
)
def test_what_is_another_quantity_is_not_taken_for_a_known_one(tag: str, tmp_path: Path) -> None:
    """A weight, a penalty, an accuracy, what is measured on held-out samples, one discriminator of two."""
    with pytest.raises(ValueError, match=f"nothing to judge .* it logs {re.escape(tag)};"):
        read_log(lines(tmp_path / "log.jsonl", [{"step": 1, tag: 0.5}]))


def test_a_loss_in_two_halves_is_their_sum_and_a_whole_one_goes_first(tmp_path: Path) -> None:
    """pix2pix's D_real is a loss; the logit of the same name elsewhere is one where no G_GAN stands beside it."""
    row = {"D_real": 0.25, "D_fake": 0.5, "epoch": 1}
    read = [
        read_log(lines(tmp_path / "log.jsonl", [{"step": 7, **row, **more}])).records[0]
        for more in ({}, {"G_GAN": 2.0}, {"G_GAN": 2.0, "loss_D": 1.5})
    ]
    assert read == [
        {"step": 7, "real_logit": 0.25, "fake_logit": 0.5},
        {"step": 7, "d_loss": 0.75, "g_loss": 2.0},
        {"step": 7, "d_loss": 1.5, "g_loss": 2.0},
    ]


def test_nested_rows_are_read_and_statistics_by_their_mean(tmp_path: Path) -> None:
    """As StyleGAN writes them: a step in thousands of images, no name of a step at the top."""
    rows = [
        {
            "Loss/D/loss": {"num": 32, "mean": record["d_loss"], "std": 0.1},
            "losses": {"gen": record["g_loss"]},
            "Progress/kimg": {"num": 1, "mean": 4.0 * place, "std": 0.0},
        }
        for place, record in enumerate(healthy())
    ]
    (tmp_path / "metric-fid50k_full.jsonl").write_text('{"results": {"fid50k_full": 30.0}}\n')
    lines(tmp_path / "stats.jsonl", rows)
    log = read_log(tmp_path)
    assert [record["step"] for record in log.records[:3]] == [0, 4000, 8000]
    assert [record["g_loss"] for record in log.records] == [record["g_loss"] for record in healthy()]
    assert log.tags == {"d_loss": "Loss/D/loss", "g_loss": "losses/gen"}
    assert diagnose(tmp_path).verdict.name == "healthy"


def test_of_several_tags_for_one_field_the_most_logged_is_read(tmp_path: Path) -> None:
    rows = [{"step": record["step"], "train/d_loss_step": record["d_loss"]} for record in healthy()]
    rows[-1]["train/d_loss_epoch"] = math.inf
    found = diagnose(lines(tmp_path / "log.jsonl", rows))
    assert found.verdict.name == "healthy"
    assert "120 records: d_loss (train/d_loss_step)" in found.lines()
    assert "without gradients, spectra or samples" in found.lines()[2]


def test_an_epoch_is_no_step_where_many_rows_share_it(tmp_path: Path) -> None:
    rows = [{"epoch": place // 40, "batch_size": 8, "d_loss": r["d_loss"]} for place, r in enumerate(healthy())]
    assert [record["step"] for record in read_log(lines(tmp_path / "a.jsonl", rows)).records] == list(range(120))
    once = rows[::40]
    assert [record["step"] for record in read_log(lines(tmp_path / "b.jsonl", once)).records] == [0, 1, 2]


def test_a_list_of_objects_is_read_and_few_records_are_said_to_be_few(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text(json.dumps([{"iteration": 3, "errD": 1.0}, {"iteration": 5, "errD": 1.1}]))
    found = diagnose(tmp_path / "log.json")
    assert (found.records, found.timeline[-1].last) == (2, 5)
    assert found.lines()[1].startswith("  too few records")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("log.jsonl", b"", "is empty; what can be read"),
        ("log.json", b"<html>", "holds no line that is a JSON object"),
        ("log.jsonl", bytes(range(256)), "holds no line that is a JSON object"),
        ("events.out.tfevents.1.host", b"\x00\x01 broken" * 50, "no TensorBoard scalar could be read from"),
        ("log.csv", b"step,d_loss\n1,2\n", "no TensorBoard scalar could be read from"),
    ],
)
def test_a_file_that_is_no_log_is_said_to_be_none(
    name: str, content: bytes, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert cli.main(["doctor", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert complaint in error


@pytest.mark.parametrize("name", ["gradients thirtyfold", "both logits circle", "losses swing widely", "a loss is NaN"])
def test_tensorboard_events_are_judged_like_lines(name: str, tmp_path: Path) -> None:
    records = renamed(pattern(name), NAMES["plain"])
    with SummaryWriter(str(tmp_path / "events")) as board:
        for record in records:
            for tag, value in record.items():
                if tag != "step":
                    board.add_scalar(tag, value, record["step"])
    from_events = diagnose(tmp_path / "events")
    from_lines = diagnose(lines(tmp_path / "log.jsonl", records))
    assert from_events.verdict.name == from_lines.verdict.name == PATTERNS[name][0]
    assert from_events.verdict.since == from_lines.verdict.since
    assert from_events.records == len(records)


@pytest.mark.parametrize("name", PATTERNS)
def test_our_own_records_are_judged_as_the_monitor_does(name: str, tmp_path: Path) -> None:
    records = [{**record, "verdict": "healthy", "seconds": 1.0} for record in pattern(name)]
    text = json.dumps(records).replace("NaN", "null").replace("Infinity", "null")  # as a run writes them
    found = diagnose(lines(tmp_path / "metrics.jsonl", json.loads(text)).parent)
    assert found.verdict.name == PATTERNS[name][0]
    assert found.timeline[0].verdict.name == "warming-up"
    assert found.timeline[-1].last == records[-1]["step"]
    assert found.lines()[0].startswith(f"{PATTERNS[name][0]} at step 1200, since step ")


def test_null_elsewhere_is_what_was_not_logged(tmp_path: Path) -> None:
    records = renamed(healthy(), NAMES["plain"])
    for record in records[1::2]:
        record["d_loss"] = None
    assert diagnose(lines(tmp_path / "log.jsonl", records)).verdict.name == "healthy"


def test_a_resumed_log_counts_once_and_a_torn_line_not_at_all(tmp_path: Path) -> None:
    records = renamed(healthy(), NAMES["plain"])
    path = lines(tmp_path / "log.jsonl", [*records[:50], *records[30:]])
    path.write_text(path.read_text() + '{"step": 99999, "d_lo')
    assert [record["step"] for record in read_log(path).records] == [record["step"] for record in records]


def test_the_command_prints_the_verdict_and_exits_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = lines(tmp_path / "good.jsonl", renamed(healthy(), NAMES["plain"]))
    assert cli.main(["doctor", str(good)]) == 0
    assert capsys.readouterr().out.startswith("healthy at step 1200\n120 records: d_loss, g_loss,")
    bad = lines(tmp_path / "bad.jsonl", renamed(pattern("losses swing widely"), ("a", "b", "c", "d", "e")))
    assert cli.main(["doctor", str(bad), "--names", "d_loss=a", "g_loss=b"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("oscillating at step 1200, since step ")
    assert "advice: lower the momentum" in out


@pytest.mark.parametrize(
    ("make", "arguments", "complaint"),
    [
        (None, [], "is neither a file nor a folder"),
        ([], [], "holds neither a metrics.jsonl nor TensorBoard events"),
        ([{"step": 1, "foo": 2.0}], [], "nothing to judge in .*: it logs foo; say which field is which"),
        ([{"step": 1, "foo": 2.0}], ["--names", "d_loss=bar"], "has no field 'bar' to be read as d_loss"),
        ([{"step": 1, "foo": 2.0}], ["--names", "d_loss"], "give FIELD=NAME"),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_line(
    make: list[dict] | None, arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "log"
    if make is not None:
        folder.mkdir()
    if make:
        lines(folder / "metrics.jsonl", make)
    assert cli.main(["doctor", str(folder), *arguments]) == 2  # 1 is what a failing training gives
    error = capsys.readouterr().err
    assert error.count("\n") == 1

    assert re.search(complaint, error)


def test_names_are_pairs() -> None:
    assert parse_names(["d_loss=Loss/critic", "g_loss=x=y"]) == {"d_loss": "Loss/critic", "g_loss": "x=y"}


def test_a_number_that_is_not_finite_needs_no_past(tmp_path: Path) -> None:
    records = [{"step": 1, "d_loss": 1.0}, {"step": 2, "d_loss": math.inf}]
    assert diagnose(lines(tmp_path / "log.jsonl", records)).verdict.name == "not-finite"


def test_of_a_run_of_ours_the_verdicts_are_those_its_monitor_gave(tmp_path: Path) -> None:
    """Which saw more than was logged; but not where the log has gone on since."""
    records = [{**record, "verdict": "healthy"} for record in healthy()[:4]]
    lines(tmp_path / "metrics.jsonl", records)
    last = records[-1]["step"]
    verdicts = [
        Verdict("warming-up", 1, since=1),
        Verdict("oscillating", 25, "it swings", "hold it", "d_loss", since=20, confidence=0.75),
    ]
    kept = {**verdicts[-1].to_json(), "last": last, "rollbacks": 0, "timeline": [one.to_json() for one in verdicts]}
    (tmp_path / "diagnosis.json").write_text(json.dumps(kept))
    found = diagnose(tmp_path)
    assert found.verdict == verdicts[-1]
    assert [stretch.verdict.name for stretch in found.timeline] == ["warming-up", "oscillating"]
    assert found.timeline[-1].last == last
    assert cli.main(["doctor", str(tmp_path)]) == 1
    for changed in ({**kept, "last": last - 1}, {**kept, "timeline": []}, {"verdict": "healthy"}):
        (tmp_path / "diagnosis.json").write_text(json.dumps(changed))
        assert diagnose(tmp_path).verdict.name == "warming-up"
    (tmp_path / "diagnosis.json").write_text("{")
    assert cli.main(["doctor", str(tmp_path)]) == 0
