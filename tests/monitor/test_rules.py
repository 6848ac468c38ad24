"""Rules on synthetic trainings: each failure is named by its own verdict, soon, and nothing else is."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

from poise.monitor import FAILURES, Judge, Thresholds, judged
from poise.monitor.advice import ADVICE
from poise.monitor.history import PAST, RECENT, Series
from poise.monitor.rules import RULES
from tests.monitor.histories import ONSET, PATTERNS, healthy, pattern

SCALES = [1e-3, 1.0, 1e2]


def failures(judge: Judge) -> list[str]:
    return [verdict.name for verdict in judge.timeline if verdict.is_failing]


def test_there_is_a_rule_and_advice_for_each_failure() -> None:
    assert set(FAILURES) == {"not-finite", *RULES} == set(ADVICE)
    assert {verdict for verdict, _ in PATTERNS.values()} == set(FAILURES)


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_training_warms_up_and_is_healthy(seed: int) -> None:
    judge = judged(healthy(seed))
    assert [verdict.name for verdict in judge.timeline] == ["warming-up", "healthy"]
    assert judge.verdict.step == healthy()[-1]["step"]


@pytest.mark.parametrize("name", PATTERNS)
def test_each_pattern_is_named_rightly_and_soon(name: str) -> None:
    for seed in (1, 2):
        judge = judged(pattern(name, seed))
        assert set(failures(judge)) == {PATTERNS[name][0]}
        alarm = next(verdict for verdict in judge.timeline if verdict.is_failing)
        assert alarm.since is not None
        assert 10 * ONSET < alarm.since <= alarm.step <= 10 * (ONSET + 35)
        assert judge.verdict.is_failing  # and does not grow used to it
        assert alarm.evidence
        assert alarm.advice
        assert 0.5 <= alarm.confidence <= 1


@pytest.mark.parametrize(("lowest", "verdicts"), [(0.85, []), (0.6, []), (0.3, ["oscillating"])])
def test_a_ranking_has_to_fall_before_it_rises_to_be_led_around(lowest: float, verdicts: list[str]) -> None:
    """A D that was at 0.35 and learns to tell fakes does not oscillate; it does if it then falls and rises again."""
    records = healthy()
    for since, record in enumerate(records):
        fallen = 70 <= since < 78
        record["ranking"] = 0.35 if since < 50 else lowest if fallen else 0.93
    assert failures(judged(records)) == verdicts


@pytest.mark.parametrize(
    ("before", "after", "verdicts"),
    [(7.0, 7.0, []), (2.5, 7.0, ["discriminator-overpowers"]), (11.0, 11.0, ["discriminator-overpowers"])],
)
def test_a_gap_of_many_spreads_counts_where_it_is_new(before: float, after: float, verdicts: list[str]) -> None:
    """A D that tells 99.9% of pairs, and always did, may go on well: stacked digits are learnt so under bssn."""
    records = healthy()
    for place, record in enumerate(records):
        spread = math.hypot(record["real_logit_std"], record["fake_logit_std"]) / math.sqrt(2)
        record["logit_gap"] = spread * (before if place < ONSET else after)
        record["ranking"] = 0.999
    assert failures(judged(records)) == verdicts


@pytest.mark.parametrize("scale", SCALES)
def test_a_loss_and_its_gradients_may_be_of_any_scale(scale: float) -> None:
    def scaled(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for record in records:
            for signal in ("d_loss", "g_loss"):
                record[signal] *= scale
            for layer in record["gradient_norm"]:
                record["gradient_norm"][layer] *= scale
        return records

    assert failures(judged(scaled(healthy()))) == []
    for name in ("gradients thirtyfold", "a layer without gradient", "losses swing widely"):
        assert set(failures(judged(scaled(pattern(name))))) == {PATTERNS[name][0]}


@pytest.mark.parametrize("name", PATTERNS)
def test_evidence_names_signal_layer_value_and_threshold(name: str) -> None:
    verdict = judged(pattern(name)).verdict
    assert verdict.signal
    if verdict.name == "not-finite":
        assert verdict.value is None
        return
    assert verdict.value is not None
    assert verdict.threshold in {getattr(Thresholds(), field) for field in Thresholds.__dataclass_fields__}
    assert f"{verdict.threshold:g}" in verdict.evidence
    assert verdict.layer in verdict.evidence


def test_growth_of_sigma_is_told_with_its_steps_and_remedy() -> None:
    verdict = judged(pattern("σ of a layer grows by a tenth each time")).verdict
    assert verdict.layer == "G.conv"
    assert verdict.evidence.startswith("σ₀ of G.conv ")
    assert "layers='conv'" in verdict.advice
    assert "sigma-clamp" in verdict.advice


@pytest.mark.parametrize(("before", "verdicts"), [(1.0, ["spectral-explosion"]), (1.02, [])])
def test_a_sigma_that_grows_faster_than_ever_before_is_named_before_it_is_large(
    before: float, verdicts: list[str]
) -> None:
    """By 8% a record it is 2.2 times as large after ten, which is no surge of one that has grown by 2% all along."""
    records = healthy()[: ONSET + 11]
    for since, record in enumerate(records, -ONSET):
        record["sigma"]["G.conv"] = before**since if since < 0 else 1.08**since
    judge = judged(records)
    assert failures(judge) == verdicts
    if verdicts:
        assert judge.verdict.value is not None
        assert judge.verdict.value < 2.3
        assert "faster than ever before" in judge.verdict.evidence


def test_what_came_first_is_the_cause() -> None:
    """Gradients explode once σ has; and at last nothing is finite."""
    records = pattern("σ of a layer grows by a tenth each time")
    for record in records[ONSET + 30 :]:
        record["gradient_norm"] = {layer: 100 * norm for layer, norm in record["gradient_norm"].items()}
    judge = judged(records[:-1])
    assert set(failures(judge)) == {"spectral-explosion"}
    end = judge.take(5000, {"d_loss": math.nan})
    assert (end.name, end.is_fatal) == ("not-finite", True)
    assert "after spectral-explosion since step" in end.evidence


def test_of_signs_that_begin_together_the_cause_is_named() -> None:
    """Fakes that have become one leave G hardly a gradient; a median of five sees that sooner by an observation."""
    records = healthy()
    for since, record in enumerate(records[ONSET:]):
        record["gradient_norm"]["G.conv"] *= 1e-3
        record["diversity"] *= 0.01 if since else 1
    judge = judged(records)
    assert judge.verdict.name == "mode-collapse"
    assert judge.verdict.since == records[ONSET + 3]["step"]


@pytest.mark.parametrize(
    ("ranking", "verdict"),
    [(0.98, "discriminator-overpowers"), (0.8, "mode-collapse"), (0.5, "discriminator-blind")],
)
def test_fakes_that_never_came_near_are_put_down_to_who_is_the_cause(ranking: float, verdict: str) -> None:
    records = healthy()
    for record in records:
        record |= {"ranking": ranking, "coverage": 12.0}
    judge = judged(records)
    assert set(failures(judge)) == {verdict}
    first = next(one for one in judge.timeline if one.is_failing)
    assert first.signal == "coverage"
    assert first.step > records[Thresholds().learning]["step"]  # not before there was time to learn


def test_fakes_that_draw_near_are_given_time() -> None:
    records = healthy()
    for since, record in enumerate(records):
        record["coverage"] = max(1.2, 40 * 0.98**since)
    assert records[80]["coverage"] > Thresholds().coverage
    assert failures(judged(records)) == []
    for record in records[70:]:
        record["coverage"] = 10.0  # no nearer from here on
    assert failures(judged(records)) == ["mode-collapse"]


@pytest.mark.parametrize(("near", "verdicts"), [(1, ["mode-collapse"]), (4, [])])
def test_fakes_that_are_far_most_of_the_time_are_far(near: int, verdicts: list[str]) -> None:
    """Thrown about by rates that are too high, they pass the data now and then."""
    records = healthy()
    for place, record in enumerate(records):
        record["coverage"] = 4.0 if place % 7 < near else 6.0
    assert failures(judged(records)) == verdicts


@pytest.mark.parametrize(("onset", "verdicts"), [(20, []), (ONSET, ["spectral-collapse"])])
def test_a_rank_may_fall_while_networks_begin_to_learn(onset: int, verdicts: list[str]) -> None:
    records = healthy()
    for record in records[onset:]:
        record["stable_rank"]["D.conv"] = 2.2
    assert failures(judged(records)) == verdicts


@pytest.mark.parametrize("every", [3, 1000])
def test_a_gradient_that_was_zero_has_no_past_to_grow_from(every: int) -> None:
    records = healthy()
    for place, record in enumerate(records):
        record["ranking"] = 0.97  # the discriminator has won
        for layer in ("D.conv", "D.linear"):
            record["gradient_norm"][layer] *= 1.0 if place >= ONSET or place % every == every - 1 else 0.0
    assert failures(judged(records)) == []


@pytest.mark.parametrize(("size", "verdicts"), [(1.0, []), (30.0, ["exploding-gradients"])])
def test_a_gradient_counts_sooner_where_the_real_samples_are_others(size: float, verdicts: list[str]) -> None:
    records = healthy()
    for place, record in enumerate(records):
        for layer in record["gradient_norm"]:
            record["gradient_norm"][layer] *= 1.5 ** (place % 3 - 1) * (15 if place >= ONSET else 1)
        record["largest_real"] *= size if place >= ONSET else 1
    assert failures(judged(records)) == verdicts


@pytest.mark.parametrize("coverage", [1.2, 12.0])
def test_modes_are_lost_only_where_there_were_any(coverage: float) -> None:
    """Fakes that never came near the data draw together and apart as they wander; that is no loss of modes."""
    records = healthy()
    past = Thresholds().learning - 10  # before "far off" is a failure by itself
    for since, record in enumerate(records):
        record |= {"coverage": coverage, "diversity": record["diversity"] * (0.4 if since > past else 1)}
    assert failures(judged(records[: past + 10])) == (["mode-collapse"] if coverage < Thresholds().coverage else [])


@pytest.mark.parametrize(
    ("rankings", "verdicts"),
    [
        ((0.6, 0.6), ["mode-collapse"]),
        ((0.5, 0.5), ["discriminator-blind"]),
        ((0.85, 0.6), ["mode-collapse"]),
        ((0.45, 0.6), ["mode-collapse"]),
        ((0.85, 0.4), ["oscillating"]),
        ((0.8, 0.22), ["oscillating"]),
    ],
)
def test_fakes_that_are_far_off_oscillate_where_d_has_them_right_and_wrong_by_turns(
    rankings: tuple[float, float], verdicts: list[str]
) -> None:
    records = healthy()
    for place, record in enumerate(records):
        record |= {"coverage": 12.0, "ranking": rankings[place // 30 % 2]}
    assert failures(judged(records[:90]))[:1] == verdicts


@pytest.mark.parametrize("share", [0.95, 0.92])
def test_a_slow_drift_of_some_percent_is_none(share: float) -> None:
    records = healthy()
    for since, record in enumerate(records[ONSET:]):
        record["diversity"] *= max(share, 0.99**since)
    assert failures(judged(records)) == []


@pytest.mark.parametrize(("first", "last", "verdicts"), [(0.98, 0.83, ["mode-collapse"]), (1.14, 0.99, [])])
def test_what_falls_ever_so_slowly_is_told_by_the_best_there_was(
    first: float, last: float, verdicts: list[str]
) -> None:
    """The median of the past falls with it. Fakes that come down to the data, from further apart, lose nothing."""
    records = healthy()
    for place, record in enumerate(records):
        record["diversity"] *= (first + (last - first) * place / len(records)) / 0.95
    judge = judged(records)
    assert failures(judge) == verdicts
    if verdicts:
        assert "of what it had long been" in judge.verdict.evidence


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({"diversity": 0.91}, set()),
        ({"coverage": 1.45}, set()),
        ({"diversity": 0.91, "coverage": 1.45}, {"mode-collapse"}),
        ({"diversity": 0.92, "coverage": 1.25}, set()),
        ({"diversity": 0.92, "logit_gap": 1.5}, set()),
        ({"coverage": 1.25, "logit_gap": 1.5}, set()),
        ({"diversity": 0.92, "coverage": 1.25, "logit_gap": 1.5}, {"mode-collapse"}),
        ({"feature_diversity": 0.8}, set()),
        ({"diversity": 0.97, "feature_diversity": 0.8}, set()),
        ({"diversity": 0.92, "feature_diversity": 0.82}, {"mode-collapse"}),
        ({"G": 2.2}, set()),
        ({"D": 2.2}, set()),
        ({"D": 2.2, "G": 2.2}, {"exploding-gradients"}),
        ({"D": 1.35, "G": 1.9}, set()),
        ({"D": 1.9, "G": 1.35}, {"exploding-gradients"}),
    ],
)
def test_a_small_drift_counts_where_signs_agree(changes: dict[str, float], verdicts: set[str]) -> None:
    """Fakes alike, far, and easily told, or alike in D's features; both players' steps. Fewer are what trainings do."""
    records = healthy()
    for record in records[ONSET:]:
        for name, factor in changes.items():
            if name in record:
                record[name] *= factor
            for layer in record["update_ratio"]:
                record["update_ratio"][layer] *= factor if layer.startswith(name + ".") else 1
    assert set(failures(judged(records))) == verdicts


@pytest.mark.parametrize(
    ("steps", "gradients", "sigma", "verdicts"),
    [
        ({"G": 4.0}, {}, 1.0, ["exploding-gradients"]),
        ({"G": 4.0}, {"G": 4.0}, 1.0, []),
        ({"G": 8.0}, {"G": 8.0}, 1.0, ["exploding-gradients"]),
        ({"G": 2.2, "D": 2.2}, {"G": 2.2}, 1.0, ["exploding-gradients"]),
        ({"G": 2.2, "D": 2.2}, {"G": 2.2, "D": 2.2}, 1.0, []),
        ({}, {}, 3.0, []),
        ({"G": 4.0}, {"G": 4.0}, 3.0, ["spectral-explosion"]),
    ],
)
def test_steps_that_grow_with_the_gradient_have_to_grow_further_to_explode(
    steps: dict[str, float], gradients: dict[str, float], sigma: float, verdicts: list[str]
) -> None:
    """A gradient that doubles has doubled the step before: trainings do that. Rates that are too high do not wait."""
    records = healthy()
    for record in records[ONSET:]:
        for signal, factors in (("update_ratio", steps), ("gradient_norm", gradients)):
            for layer in record[signal]:
                record[signal][layer] *= factors.get(layer.partition(".")[0], 1.0)
        layer = next(layer for layer in record["sigma"] if layer.startswith("G."))
        record["sigma"][layer] *= sigma
    assert set(failures(judged(records))) == set(verdicts)


@pytest.mark.parametrize(
    ("signal", "layer", "a_record", "verdicts"),
    [
        ("", "", 1.0, ["exploding-gradients"]),
        ("hidden_variance", "G.conv", 0.96, []),
        ("hidden_variance", "D.conv", 0.96, ["exploding-gradients"]),
        ("sigma", "G.conv", 1.06, ["spectral-explosion"]),
    ],
)
def test_steps_that_have_shrunk_are_seen_to_grow_before_they_are_longer_than_in_the_past(
    signal: str, layer: str, a_record: float, verdicts: list[str]
) -> None:
    """From a third of the past's median on, by 3% a record. Where a layer fades or its σ₀ grows, they come of that."""
    records = healthy()
    for since, record in enumerate(records, -ONSET):
        for of in record["update_ratio"]:
            record["update_ratio"][of] *= 3 if since < -ONSET // 2 else 1.03 ** max(0, min(since, 36))
        if signal and since > 0:
            record[signal][layer] *= a_record**since
    judge = judged(records)
    assert failures(judge) == verdicts
    if verdicts == ["exploding-gradients"]:
        first = next(one for one in judge.timeline if one.is_failing)
        assert first.step < records[ONSET + 26]["step"]
        assert "as far a step as a while ago" in first.evidence


@pytest.mark.parametrize("factor", [30.0, 0.03])
def test_one_wild_step_is_no_growth_of_steps(factor: float) -> None:
    for at in (70, 90):
        records = healthy()
        for layer in records[at]["update_ratio"]:
            records[at]["update_ratio"][layer] *= factor
        assert failures(judged(records)) == []


def test_a_warm_up_of_the_rates_is_no_explosion() -> None:
    records = healthy()
    for place, record in enumerate(records):
        for layer in record["update_ratio"]:
            record["update_ratio"][layer] *= (place + 1) / len(records)
    assert failures(judged(records)) == []


@pytest.mark.parametrize(
    ("signs", "cause"),
    [
        ({"update_ratio": 10.0, "stable_rank": 0.1}, "exploding-gradients"),
        ({"update_ratio": 10.0, "sigma": 6.0}, "spectral-explosion"),
        ({"stable_rank": 0.1, "diversity": 0.3}, "spectral-collapse"),
    ],
)
def test_causes_stand_above_what_they_bring_about(signs: dict[str, float], cause: str) -> None:
    records = healthy()
    for record in records[ONSET:]:
        for signal, factor in signs.items():
            values = record[signal]
            record[signal] = {k: v * factor for k, v in values.items()} if signal != "diversity" else values * factor
    assert next(iter(failures(judged(records)))) == cause


def test_a_blind_discriminator_is_the_cause_of_a_generator_that_runs_off() -> None:
    records = healthy()
    for since, record in enumerate(records):
        record["ranking"] = 0.45 if since < ONSET else 0.0
        record["sigma"]["G.conv"] *= 1 if since < ONSET else 6
    assert next(iter(failures(judged(records)))) == "discriminator-blind"


def test_copies_of_samples_have_to_leave_what_is_usual_of_the_data() -> None:
    records = healthy()
    for since, record in enumerate(records):
        record["copies"] = 0.3 if since < ONSET else 0.4
    assert failures(judged(records)) == []


def test_a_discriminator_that_was_never_right_is_led() -> None:
    records = healthy()
    for record in records:
        record |= {"ranking": 0.02, "coverage": 500.0}
    judge = judged(records)
    assert set(failures(judge)) == {"discriminator-blind"}
    assert judge.verdict.signal == "ranking"


def test_data_with_copies_from_the_start_are_what_they_are() -> None:
    """A few hundred images and large batches."""
    records = [record | {"copies": 0.3} for record in healthy()]
    assert failures(judged(records)) == []


def test_a_layer_that_is_moved_alone_is_no_explosion_of_gradients() -> None:
    records = healthy()
    for record in records[ONSET:]:
        record["update_ratio"]["D.conv"] *= 30
    assert failures(judged(records)) == []


def test_fakes_are_not_compared_with_real_samples_in_another_unit() -> None:
    records = healthy()
    for record in records[ONSET:]:
        record |= {"largest_real": 255.0, "diversity": 0.004, "neighbours": 0.004, "coverage": 30.0}
    assert failures(judged(records)) == []
    for record in records:
        del record["largest_real"]
    assert set(failures(judged(records))) == {"mode-collapse"}


def test_one_wild_observation_is_no_failure_and_a_passing_one_is_recovered_from() -> None:
    records = healthy()
    records[70]["gradient_norm"] = dict.fromkeys(records[70]["gradient_norm"], 1e3)
    assert failures(judged(records)) == []
    for record in records[70:80]:
        record["gradient_norm"] = dict.fromkeys(record["gradient_norm"], 1e3)
    judge = judged(records)
    assert failures(judge) == ["exploding-gradients"]
    assert judge.verdict.name == "healthy"


@pytest.mark.parametrize("name", [None, "gradients thirtyfold", "losses swing widely", "a loss is NaN"])
@pytest.mark.parametrize("at", [5, ONSET + 3, ONSET + 30])
def test_a_resumed_judge_judges_alike(name: str | None, at: int) -> None:
    records = healthy() if name is None else pattern(name)
    whole, first = judged(records), judged(records[:at])
    second = Judge()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for record in records[at:]:
        second.take(record["step"], record)
    assert second.verdict == whole.verdict
    assert second.timeline == whole.timeline
    assert second.state_dict() == whole.state_dict()


def test_records_between_the_cadence_are_looked_at_for_nan_only() -> None:
    often = [copy.deepcopy(record) | {"step": record["step"] + more} for record in healthy() for more in (0, 3, 7)]
    assert judged(often, every=10).state_dict()["history"] == judged(healthy(), every=10).state_dict()["history"]
    often[100]["d_loss"] = math.nan
    assert "not-finite" in failures(judged(often, every=10))


def test_a_series_remembers_the_whole_run_in_few_points() -> None:
    series = Series()
    for step in range(10_000):
        series.append(step, float(step), remember=True)
    assert len(series.recent) == RECENT
    assert PAST / 2 <= len(series.past) < PAST
    assert series.usual() == pytest.approx(5000, rel=0.05)
    assert series.now == 9997
    assert series.past == sorted(series.past)


def test_the_past_is_not_taught_by_what_is_not_to_be_remembered() -> None:
    series = Series()
    for step in range(100):
        series.append(step, 1.0 if step < 50 else 100.0, remember=step < 50)
    assert (series.usual(), series.now) == (1.0, 100.0)


def test_growth_of_late_and_a_fall_from_the_best_are_those_of_the_values() -> None:
    """Of values that rise by 1% an observation, then fall by 2%; nothing has grown where there are too few."""
    values = [1.01 ** min(step, 60) * 0.98 ** max(0, step - 60) for step in range(80)]
    series = Series()
    for step, value in enumerate(values):
        if step == 30:
            assert series.lately() == 1.0
        series.append(step, value, remember=True)
    logs = [math.log(value) for value in values]
    assert series.lately() == pytest.approx(math.exp(sum(logs[68:]) / 12 - sum(logs[48:64]) / 16))
    best = max(sum(logs[end - 12 : end]) / 12 for end in range(12, 76))
    middle = math.log(values[73]) / 2 + math.log(values[74]) / 2
    share, deviation = series.fall(values[-12:], most=10.0)
    assert share == pytest.approx(math.exp(middle - best), rel=1e-4)
    assert deviation < 0
    assert series.fall(values[-12:], most=1.0)[0] == pytest.approx(math.exp(middle), rel=1e-4)


def test_a_threshold_is_above_zero() -> None:
    with pytest.raises(ValueError, match="sigma_growth is 0; a threshold is above 0"):
        Thresholds(sigma_growth=0)


def test_the_usual_steps_of_both_players_are_known_once_there_is_a_past() -> None:
    moved = {"G.conv": 0.001, "G.linear": 0.004, "D.conv": 0.03}
    judge = judged({**record, "update_ratio": moved} for record in healthy())
    assert judge.history.usual_steps() == {"G": pytest.approx(0.002), "D": pytest.approx(0.03)}
    assert Judge().history.usual_steps() == {}
