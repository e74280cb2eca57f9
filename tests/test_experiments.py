"""Comparisons: statistics against scipy and simulations, sentences against known outcomes, killing and rerunning."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy import stats

from compare import main
from gan.device import resolve_precision
from gan.errors import UserError
from gan.experiments import runner, summary
from gan.experiments.comparison import Comparison, Primary, load_comparison
from gan.experiments.curves import averaged, reached
from gan.experiments.outcomes import Outcome, curve, load_outcome, outcome_path, read_outcome, save_outcome
from gan.experiments.report import finding, write_report
from gan.experiments.runner import require_buildable
from gan.experiments.statistics import (
    equivalence_test,
    estimate,
    holm,
    paired_difference,
    pairs_needed,
    signed_rank_test,
    spent_levels,
    t_test,
)
from gan.experiments.summary import Task, interquartile_mean, probability_of_improvement, stratified
from gan.experiments.tuning import best_point, tuned
from gan.experiments.verdicts import Rule, Verdict, contrast, judge
from gan.metrics.audits.modes import compare_occupancy
from gan.metrics.results import Result
from gan.metrics.table import METRICS
from gan.scoring.saved_results import save_result
from gan.training.run_directory import RunDirectory
from gan.training.tracking import ELAPSED
from tests import ROOT
from tests.test_metrics import PROTOCOL

SMOKE = ROOT / "configs" / "experiments" / "smoke.yaml"
R1 = "objective.regularizers={r1: {weight: 1.0}}"
COMPARISONS = sorted(path for path in SMOKE.parent.glob("*.yaml") if "task: comparison" in path.read_text())


def test_pairs_are_compared_as_scipy_does() -> None:
    random = np.random.default_rng(0)
    first = random.normal(50, 5, 12)
    second = first + random.normal(-1, 2, 12)
    found = paired_difference(list(first), list(second))
    test = stats.ttest_rel(second, first)
    low, high = test.confidence_interval(0.95)
    assert t_test(list(second - first)) == pytest.approx(test.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_the_signed_rank_test_is_wilcoxons() -> None:
    random = np.random.default_rng(5)
    for count in (1, 4, 9, 12):
        values = random.normal(0.4, 1, count)
        expected = stats.wilcoxon(values, method="exact").pvalue
        assert signed_rank_test(list(values)) == pytest.approx(expected, rel=1e-12)
    assert signed_rank_test([]) == signed_rank_test([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("value", [0.1, 0.5, -1.0, 1e-7, 3e5])
def test_equal_differences_are_tested_by_their_signs_whatever_their_bits(value: float) -> None:
    for count in (2, 3, 6, 10):
        assert t_test([value] * count) == pytest.approx(2 * 0.5**count)
        assert equivalence_test([value] * count, 0.3) == (0.0 if abs(value) < 0.3 else 1.0)
    assert t_test([0.0] * 5) == t_test([value]) == t_test([]) == 1.0
    assert t_test([value, 1.01 * value, value]) == pytest.approx(stats.ttest_1samp([1, 1.01, 1], 0).pvalue)


def test_the_signed_rank_test_counts_every_pattern_of_signs() -> None:
    for values in ([math.inf, 1.0, -2.0, 2.0, 0.0], [math.inf, math.inf, -1.0], [-math.inf, 3.0, 3.0, 3.0, -3.0, 1.0]):
        moved = [one for one in values if one]
        ranks = stats.rankdata(np.abs(moved))
        sums = [
            sum(rank for place, rank in enumerate(ranks) if pattern >> place & 1) for pattern in range(2 ** len(moved))
        ]
        centre = sum(ranks) / 2
        seen = abs(sum(rank for rank, one in zip(ranks, moved, strict=True) if one > 0) - centre)
        expected = np.mean([abs(one - centre) >= seen - 1e-9 for one in sums])
        assert signed_rank_test(values) == pytest.approx(expected, rel=1e-12)


def test_equivalence_is_two_one_sided_tests() -> None:
    values = list(np.random.default_rng(6).normal(0.05, 0.2, 9))
    above = stats.ttest_1samp(values, -0.25, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 0.25, alternative="less").pvalue
    assert equivalence_test(values, 0.25) == pytest.approx(max(above, below), rel=1e-9)
    assert equivalence_test([0.1], 0.25) == 1.0 and equivalence_test([0.1, 0.1], 0.25) == 0.0


def test_the_interval_of_a_known_effect_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    covered = []
    for _ in range(3000):
        shared = random.normal(0, 10, 5)  # what seeds share does not widen the interval
        found = paired_difference(list(shared), list(shared + random.normal(2, 1, 5)))
        covered.append(found.low <= 2 <= found.high)
        assert found.high - found.low < 8
    assert 0.93 <= np.mean(covered) <= 0.97


def rule(looks: tuple[int, ...], margin: float = 0.25, log: bool = True) -> Rule:
    return Rule(log, True, margin, looks)


def runs(values: np.ndarray) -> dict[int, float | None]:
    return {seed: None if math.isinf(value) else float(value) for seed, value in enumerate(values)}


def test_the_interval_of_a_ratio_covers_it() -> None:
    """KL and Fréchet distances are multiplicative: the ratio's interval is right whatever their level is."""
    random = np.random.default_rng(8)
    covered = []
    for _ in range(2000):
        base = np.exp(random.normal(random.uniform(-3, 5), 1, 6))
        arm = base * 0.4 * np.exp(random.normal(0, 0.5, 6))
        interval = contrast(rule((6,)), runs(base), runs(arm), range(6)).interval
        assert interval is not None
        covered.append(math.exp(interval.low) <= 0.4 <= math.exp(interval.high))
    assert 0.935 <= np.mean(covered) <= 0.965


def wrong_verdicts(random: np.random.Generator, looks: tuple[int, ...], arms: int, diverging: float) -> float:
    """How often runs that nothing tells apart give some "better" or "worse" at some look."""
    wrong = []
    for _ in range(1000):
        values = np.exp(random.normal(0, 0.6, (arms + 1, looks[-1])))
        values[random.random(values.shape) < diverging] = math.inf
        pairs = {("base", f"arm {arm}"): (runs(values[0]), runs(values[arm])) for arm in range(1, arms + 1)}
        found: list[Verdict] = []
        for look in looks:
            found += judge(rule(looks), pairs, range(look)).values()
        wrong.append(any(one.answer in ("better", "worse") for one in found))
    return float(np.mean(wrong))


@pytest.mark.parametrize(
    ("looks", "arms", "diverging"),
    [((10,), 1, 0.0), ((5, 10), 1, 0.0), ((3, 6, 9, 12), 1, 0.0), ((5, 10), 3, 0.0), ((5, 10), 1, 0.2), ((8,), 2, 0.5)],
)
def test_over_all_looks_nothing_is_found_where_nothing_is(looks: tuple[int, ...], arms: int, diverging: float) -> None:
    chance = wrong_verdicts(np.random.default_rng(len(looks) + arms), looks, arms, diverging)
    assert chance <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 1000)  # 99.5 % of the simulation's own spread


def test_looking_as_often_as_one_likes_would_find_something() -> None:
    """The control of the test above: the same looks at the full level each are wrong about twice as often."""
    random = np.random.default_rng(1)
    draws = random.normal(size=(1500, 12))
    wrong = [any(t_test(list(row[:look])) <= 0.05 for look in (3, 6, 9, 12)) for row in draws]
    assert np.mean(wrong) > 0.08


def test_what_looks_spend_is_obrien_and_flemings_and_adds_up() -> None:
    z = stats.norm.isf(0.025)
    for looks in ([10], [5, 10], [2, 3, 20]):
        spent = np.cumsum(spent_levels(looks))
        assert spent[-1] == pytest.approx(0.05, rel=1e-12)
        expected = [2 - 2 * stats.norm.cdf(z / math.sqrt(look / looks[-1])) for look in looks]
        assert spent == pytest.approx(expected, rel=1e-9)
    assert spent_levels([5, 10])[0] == pytest.approx(0.0056, abs=1e-4)


@pytest.mark.parametrize("edge", [1.25, 1 / 1.25])
def test_what_differs_by_the_margin_is_hardly_ever_called_equivalent(edge: float) -> None:
    random = np.random.default_rng(9)
    answers = []
    for _ in range(2000):
        base = np.exp(random.normal(0, 1, 10))
        arm = base * edge * np.exp(random.normal(0, 0.1, 10))
        verdict = judge(rule((10,)), {("a", "b"): (runs(base), runs(arm))}, range(10))["a", "b"]
        answers.append(verdict.within)
    assert np.mean(answers) <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 2000)


def test_what_is_the_same_is_called_equivalent_once_there_are_enough_seeds() -> None:
    random = np.random.default_rng(10)
    needed = pairs_needed(0.3, math.log1p(0.25))
    assert needed is not None
    answers = []
    for _ in range(500):
        base = np.exp(random.normal(0, 1, needed))
        arm = base * np.exp(random.normal(0, 0.3, needed))
        pair = {("a", "b"): (runs(base), runs(arm))}
        answers.append(judge(rule((needed,)), pair, range(needed))["a", "b"].answer)
    assert answers.count("equivalent") >= 0.75 * 500


@pytest.mark.parametrize(("deviation", "margin"), [(1.0, 1.0), (3.0, 2.0), (1.0, 2.5)])
def test_the_seeds_that_are_needed_reach_the_power_for_either_answer(deviation: float, margin: float) -> None:
    needed = pairs_needed(deviation, margin)
    assert needed is not None
    random = np.random.default_rng(4)

    def power(pairs: int) -> float:
        found = stats.ttest_1samp(random.normal(margin, deviation, (20_000, pairs)), 0, axis=1).pvalue < 0.05
        draws = random.normal(0, deviation, (20_000, pairs))
        error = draws.std(axis=1, ddof=1) / math.sqrt(pairs)
        equal = np.abs(draws.mean(axis=1)) + stats.t.isf(0.05, pairs - 1) * error < margin
        return float(min(found.mean(), equal.mean()))

    assert power(needed) > 0.78
    assert power(needed - 1) < 0.83 or needed == 2


def test_divergence_is_the_worst_outcome() -> None:
    base = np.array([1.0, 1.2, 0.9, 1.1, 1.0, 1.3, 0.8, 1.0])
    arm = base * 0.5
    arm[[2, 5]] = math.inf
    found = contrast(rule((8,)), runs(base), runs(arm), range(8))
    assert found.left_out == (2, 5) and found.test == "signed rank"
    assert (
        found.interval is not None and math.exp(found.interval.mean) == pytest.approx(0.5) and found.interval.count == 6
    )
    assert [one for one in found.differences if math.isinf(one)] == [math.inf, math.inf]
    # Every run of the arm diverges: worse, without one finite difference.
    verdict = judge(rule((8,)), {("a", "b"): (runs(base), runs(base * math.inf))}, range(8))["a", "b"]
    assert verdict.answer == "worse" and verdict.contrast.interval is None
    better = judge(rule((8,)), {("a", "b"): (runs(base * math.inf), runs(base))}, range(8))["a", "b"]
    assert better.answer == "better" and better.p == pytest.approx(2 / 2**8)
    # Both diverge: no difference, and no claim of equivalence either.
    both = judge(rule((8,)), {("a", "b"): (runs(base * math.inf), runs(base * math.inf))}, range(8))["a", "b"]
    assert both.answer == "undecided" and both.p == 1.0


HIGH = np.array([4.0, 5.2, 3.9, 4.1, 6.0, 5.3, 4.8, 4.0])
NOISE = np.random.default_rng(11).normal(0, 0.1, 8)


@pytest.mark.parametrize(
    ("base", "arm", "answer"),
    [
        (HIGH, HIGH + 1 + NOISE, "better"),
        (HIGH, HIGH - 1 + NOISE, "worse"),
        (HIGH, np.full(8, math.inf), "worse"),
        (np.full(8, math.inf), HIGH, "better"),
        (np.where(np.arange(8) == 3, math.inf, HIGH), HIGH + 1 + NOISE, "better"),
        (HIGH, np.where(np.arange(8) == 3, math.inf, HIGH - 1 + NOISE), "worse"),
    ],
    ids=["higher", "lower", "diverges", "base diverges", "higher, base diverges once", "lower, diverges once"],
)
def test_where_more_is_better_the_higher_arm_is_and_divergence_is_still_the_worst(
    base: np.ndarray, arm: np.ndarray, answer: str
) -> None:
    """`runs` takes infinity as a run that diverged."""
    more = Rule(log=False, lower_is_better=False, margin=0.05, looks=(8,))
    assert judge(more, {("a", "b"): (runs(base), runs(arm))}, range(8))["a", "b"].answer == answer


def test_a_run_that_diverged_rules_equivalence_out() -> None:
    base = np.array([1.0, 1.2, 0.9, 1.1, 1.0, 1.3, 0.8, 1.0])
    arm = base * np.exp(NOISE / 10)
    pairs = {("a", "b"): (runs(base), runs(arm)), ("a", "c"): (runs(base), runs(np.append(arm[:7], math.inf)))}
    found = judge(rule((8,)), pairs, range(8))
    assert found["a", "b"].answer == "equivalent" and found["a", "b"].within
    assert found["a", "c"].answer == "undecided" and not found["a", "c"].within
    assert found["a", "c"].contrast.equivalence_p == found["a", "c"].equivalence_p == 1


def test_equivalence_at_an_early_look_is_held_against_what_that_look_may_spend() -> None:
    base = np.ones(10)
    arm = np.exp(np.array([0.02, -0.14, 0.16, 0.08, -0.12, 0.01, -0.02, 0.02, -0.01, 0.0]))
    pair = {("a", "b"): (runs(base), runs(arm))}
    early, late = (judge(rule((5, 10)), pair, range(seeds))["a", "b"] for seeds in (5, 10))
    assert early.level == spent_levels([5, 10])[0] < early.equivalence_p < 0.05
    assert early.answer == "undecided" and not early.within
    assert late.answer == "equivalent" and late.within and late.look == 1


def test_a_pair_stays_decided_at_the_look_that_decided_it() -> None:
    base = np.exp(np.random.default_rng(2).normal(0, 0.3, 10))
    arm = base * np.array([*(0.3 + 0.01 * np.arange(5)), *([20.0] * 5)])  # the late seeds say the opposite
    verdict = judge(rule((5, 10)), {("a", "b"): (runs(base), runs(arm))}, range(10))["a", "b"]
    assert verdict.answer == "better" and verdict.look == 0
    assert len(verdict.contrast.differences) == 10  # what is shown is of all seeds


def test_holm_rejects_as_its_step_down_procedure_does() -> None:
    random = np.random.default_rng(3)
    for _ in range(200):
        p_values = random.uniform(0, 0.1, 6).round(2)
        level = random.uniform(0.01, 0.3)
        ordered = sorted(p_values)
        rejected = 0
        while rejected < 6 and ordered[rejected] <= level / (6 - rejected):
            rejected += 1
        limit = ordered[rejected - 1] if rejected else -1.0
        adjusted = np.array(holm(p_values.tolist()))
        assert ((adjusted <= level) == (p_values <= limit)).all()
    assert holm([]) == [] and holm([0.04]) == [0.04] and max(holm([0.9, 0.8])) == 1.0


def test_no_spread_needs_no_number() -> None:
    assert pairs_needed(0.0, 1.0) is None and pairs_needed(math.nan, 1.0) is None
    assert pairs_needed(100.0, 0.01) is None


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return load_comparison(SMOKE, ("seeds=[0, 1, 2, 3]", "settings=[]"), tmp_path)


def outcome(value: float | None) -> Outcome:
    measures = {} if value is None else {"fid": value}
    return Outcome(
        "arm", 0, {"training": {"precision": "float32"}}, None, value is None, measures, 60, 12.0, "a machine"
    )


def report_of(comparison: Comparison, tmp_path: Path, arms: dict[str, list[float | None]]) -> str:
    outcomes = {arm: {seed: outcome(value) for seed, value in enumerate(values)} for arm, values in arms.items()}
    return write_report(comparison, outcomes, tmp_path)


def test_a_clear_difference_is_said_as_a_ratio_with_its_direction(comparison: Comparison, tmp_path: Path) -> None:
    text = report_of(comparison, tmp_path, {"independent": [30.0, 40, 50, 60], "cascade": [15.0, 20.2, 24.8, 30.1]})
    sentence = (
        "**cascade** is better than independent in fid (0.50 times that of independent, 95 % interval 0.49 to 0.51"
    )
    assert sentence in text
    text = report_of(comparison, tmp_path, {"independent": [30.0, 40, 50, 60], "cascade": [60.0, 80.2, 99.8, 120.1]})
    assert "**cascade** is worse than independent" in text and "2.00 times that of independent" in text


def test_a_linear_scale_speaks_of_differences(tmp_path: Path) -> None:
    comparison = load_comparison(
        SMOKE, ("seeds=[0, 1, 2, 3]", "settings=[]", "primary={measure: fid, scale: linear}"), tmp_path
    )
    text = report_of(comparison, tmp_path, {"independent": [30.0, 40, 50, 60], "cascade": [28.0, 38.1, 48.2, 57.9]})
    # 1.95 is less than 5 % of the base's mean of 45, and its interval too.
    assert "is better than independent in fid, though by less than 5% (-1.950, 95 % interval" in text
    assert "| cascade − independent |" in text
    higher = load_comparison(SMOKE, ("settings=['evaluation.metrics=[is, fid]']", "primary=is"), tmp_path).config.rule
    assert not higher.lower_is_better and not higher.log


def test_what_a_log_scale_cannot_hold_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"primary.scale: log found, but fid of arm cascade, seed 2 is 0; accepted: scale: linear"
    ):
        report_of(comparison, tmp_path, {"independent": [30.0, 40, 50, 60], "cascade": [28.0, 38.1, 0.0, 57.9]})


def test_before_all_seeds_are_in_there_is_no_verdict_and_no_value(comparison: Comparison, tmp_path: Path) -> None:
    arms = {"independent": [31.25, 41.25, 51.25], "cascade": [11.25, 12.25, 13.25, 14.25]}
    text = report_of(comparison, tmp_path, arms)
    assert "**3 of 4 seeds, no verdict yet**" in text and "**1 runs are missing**: independent_seed3" in text
    written = text + (tmp_path / "report.json").read_text() + (tmp_path / "report.html").read_text()
    assert not any(str(value) in written for values in arms.values() for value in values)
    assert "95 % interval" not in text and " p " not in text
    assert not (tmp_path / "differences.png").exists()


def test_a_look_reads_its_own_seeds_and_no_others(tmp_path: Path) -> None:
    comparison = load_comparison(SMOKE, ("seeds=[0, 1, 2, 3, 4, 5, 6]", "looks=[4, 7]", "settings=[]"), tmp_path)
    arms = {"independent": [30.0, 40, 50, 60, 1e6], "cascade": [3.0, 4.1, 5.0, 6.0, 1.0]}
    text = report_of(comparison, tmp_path, arms)
    assert "**cascade** is better than independent" in text and "4 seeds" in text and "decided at 4 seeds" in text
    assert "5 runs were not needed" not in text and "runs were not needed: every pair was decided before" in text
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["seeds"] == [0, 1, 2, 3] and len(numbers["arms"]["cascade"]) == 4
    arms = {"independent": [30.0, 40, 50, 60], "cascade": [33.0, 36, 55, 57]}
    text = report_of(comparison, tmp_path, arms)
    assert "undecided in fid" in text and "seeds would decide" in text
    assert not finding(comparison.config, {arm: {} for arm in arms}).verdicts


def test_further_pairs_are_compared_too_and_p_is_of_all(tmp_path: Path) -> None:
    arms = "arms={linear: [], independent: [], cascade: []}"
    values = {"linear": [9.0, 8, 7, 9], "independent": [30.0, 40, 50, 60], "cascade": [28.0, 38.1, 48.2, 57.9]}
    overrides = ("seeds=[0, 1, 2, 3]", "settings=[]", arms, "also_compare=[[independent, cascade]]")
    text = report_of(load_comparison(SMOKE, overrides, tmp_path), tmp_path, values)
    assert "**cascade** is worse than linear" in text and "3 comparisons; each interval is of 95 % by itself" in text
    logs = [[math.log(value) for value in values[arm]] for arm in ("linear", "independent", "cascade")]
    expected = holm([t_test(list(np.subtract(logs[arm], logs[base]))) for base, arm in ((0, 1), (0, 2), (1, 2))])
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["pairs"]["cascade − independent"]["p"] == pytest.approx(expected[2], rel=1e-9)
    found = estimate(list(np.subtract(logs[2], logs[1])))
    row = next(line for line in text.splitlines() if line.startswith("| cascade / independent |"))
    assert f"{math.exp(found.mean):.2f}" in row and f"{math.exp(found.low):.2f} to {math.exp(found.high):.2f}" in row


def test_a_difference_that_does_not_outlast_its_company_is_undecided(tmp_path: Path) -> None:
    arms = "arms={linear: [], independent: [], cascade: []}"
    overrides = ("seeds=[0, 1, 2, 3]", "settings=[]", "resolve=0.01", arms)
    values = {
        "linear": [30.0, 40, 50, 60],
        "independent": [30.5, 39.5, 50.5, 59.5],
        "cascade": [29.0, 39.2, 49.6, 57.2],
    }
    text = report_of(load_comparison(SMOKE, overrides, tmp_path), tmp_path, values)
    alone = t_test(list(np.log(values["cascade"]) - np.log(values["linear"])))
    assert 0.025 < alone < 0.05  # by itself it excludes a ratio of 1; of two, it does not
    assert "**cascade** against linear: undecided" in text


def test_the_differences_are_drawn_where_they_may_be_read(comparison: Comparison, tmp_path: Path) -> None:
    text = report_of(comparison, tmp_path, {"independent": [30.0, None, 30, 31], "cascade": [28.0, 38.1, 29, 28]})
    assert "](differences.png)" in text.partition("- **")[0]
    with Image.open(tmp_path / "differences.png") as image:
        assert image.width > 800


def test_divergence_is_counted_and_never_dropped_silently(comparison: Comparison, tmp_path: Path) -> None:
    arms = {"independent": [30.0, 40.0, 50.0, 60.0], "cascade": [29.0, None, 49.1, 59.0]}
    text = report_of(comparison, tmp_path, arms)
    assert "Runs that diverged: cascade 1." in text and "without seed 1, where a run diverged" in text
    row = next(line for line in text.splitlines() if line.startswith("| cascade |"))
    assert row.split("|")[3:5] == [" 4 ", " 1 "]
    assert "| 3 | signed rank |" in text
    json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def with_curve(points: list[tuple[int, float]], value: float) -> Outcome:
    curve = tuple({"step": step, "seconds": step / 10, "evaluation/frechet_distance": found} for step, found in points)
    return replace(outcome(value), curve=curve)


def test_the_way_to_a_target_is_a_ratio_of_steps_and_censored_runs_are_said(tmp_path: Path) -> None:
    overrides = ("seeds=[0, 1, 2]", "primary={measure: fid, target: 50}")
    comparison = load_comparison(SMOKE, overrides, tmp_path)
    slow = {seed: with_curve([(20, 90.0), (40, 60.0), (60 + 20 * (seed > 0), 50.0)], 50.0) for seed in range(3)}
    fast = {seed: with_curve([(20, 90.0), (40, 45.0), (60, 55.0)], 55.0) for seed in range(2)}
    fast[2] = with_curve([(20, 90.0), (40, 70.0)], 70.0)
    text = write_report(comparison, {"independent": slow, "cascade": fast}, tmp_path)
    assert "| independent | 3 of 3 | 80 | 0.1 |" in text and "| cascade | 2 of 3 | 40 | 0.1 |" in text
    row = next(line for line in text.splitlines() if line.startswith("| cascade / independent |") and "1 of 3" in line)
    assert f"| {math.sqrt(40 / 60 * 40 / 80):.2f} |" in row


def test_time_of_a_score_between_two_lines_of_the_log_is_between_theirs() -> None:
    log = [
        {"step": 0, "evaluation/frechet_distance": 90.0},
        {"step": 20, "evaluation/frechet_distance": 60.0},
        {"step": 50, ELAPSED: 10.0},
        {"step": 60, "evaluation/frechet_distance": 40.0},
        {"step": 70, "evaluation/frechet_distance": 35.0, ELAPSED: 20.0},
        {"step": 80, "evaluation/frechet_distance": 30.0},
    ]
    assert [(point["step"], point["seconds"]) for point in curve(log)] == [
        (0, 0.0), (20, 4.0), (60, 15.0), (70, 20.0), (80, 20.0)
    ]  # fmt: skip


def test_a_run_at_its_target_from_the_start_is_counted_as_left_out(tmp_path: Path) -> None:
    comparison = load_comparison(SMOKE, ("seeds=[0, 1, 2]", "primary={measure: fid, target: 50}"), tmp_path)
    slow = {seed: with_curve([(0, 90.0), (40, 45.0)], 45.0) for seed in range(3)}
    fast = {seed: with_curve([(0, 90.0), (20, 45.0)], 45.0) for seed in range(2)}
    fast[2] = with_curve([(0, 49.0), (20, 45.0)], 45.0)
    text = write_report(comparison, {"independent": slow, "cascade": fast}, tmp_path)
    assert next(line for line in text.splitlines() if "1 of 3" in line).startswith("| cascade / independent | 0.50 |")


def test_the_ratio_of_minutes_is_that_of_the_clock_and_not_of_steps(tmp_path: Path) -> None:
    comparison = load_comparison(SMOKE, ("primary={measure: fid, target: 50}",), tmp_path)

    def arrived(step: int, seconds: float) -> Outcome:
        return replace(outcome(50.0), curve=({"step": step, "seconds": seconds, "evaluation/frechet_distance": 50.0},))

    slow = {0: arrived(60, 360.0), 1: arrived(80, 480.0)}
    fast = {0: arrived(40, 120.0), 1: arrived(40, 90.0)}
    text = write_report(comparison, {"independent": slow, "cascade": fast}, tmp_path)
    assert "| independent | 2 of 2 | 70 | 7.0 |" in text and "| cascade | 2 of 2 | 40 | 1.8 |" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| cascade / independent |") and "0 of 2" in line)
    steps, minutes = math.sqrt(40 / 60 * 40 / 80), math.sqrt(120 / 360 * 90 / 480)
    cells = row.split(" | ")
    assert (cells[1], cells[3]) == (f"{steps:.2f}", f"{minutes:.2f}") == ("0.58", "0.25")


def test_where_more_is_better_the_target_is_reached_from_below(tmp_path: Path) -> None:
    overrides = ("settings=['evaluation.metrics=[is, fid]', evaluation.every=20]", "primary={measure: is, target: 2.5}")
    config = load_comparison(SMOKE, overrides, tmp_path).config
    key = "evaluation/inception_score_mean"
    curve = tuple({"step": step, "seconds": step / 4, key: value} for step, value in ((20, 2.0), (40, 3.0), (60, 2.0)))
    assert reached(config, replace(outcome(None), curve=curve)) == (40, 10.0)
    assert reached(config, replace(outcome(None), curve=curve[:1])) is None


def test_a_target_that_nothing_measures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"primary.target: 50.0 found, but arm independent does not measure fid"):
        load_comparison(SMOKE, ("settings=[]", "primary={measure: fid, target: 50}"), tmp_path)


GRID = "tuning={seeds: [7, 8], grid: {optimizer.generator_lr: [1e-4, 1e-3], optimizer.discriminator_lr: [2e-4]}}"


def keep(comparison: Comparison, values: dict[tuple[str, int], float | None]) -> None:
    """Outcomes of tuning: the same value for all seeds of an arm's point."""
    for planned in comparison.trials:
        assert planned.trial is not None
        value = values[planned.arm, planned.trial]
        kept = replace(outcome(value), config=planned.config.model_dump(), mode_samples=planned.mode_samples)
        save_outcome(comparison.results, planned, kept)


def test_every_arm_is_tuned_alike_and_its_choice_is_what_runs(tmp_path: Path) -> None:
    comparison = load_comparison(SMOKE, ("settings=[]", GRID), tmp_path)
    assert len(comparison.trials) == 2 * 2 * 2 and {run.seed for run in comparison.trials} == {7, 8}
    assert tuned(comparison).runs == comparison.runs  # nothing is chosen before all of it is over
    text = write_report(comparison, {arm: {} for arm in comparison.config.arms}, tmp_path)
    assert "**8 of the 8 runs of tuning are missing**" in text
    options = [str(SMOKE), "--set", "settings=[]", "--set", GRID, "--out", str(tmp_path / "early")]
    early = CliRunner().invoke(main, [*options, "--task", "8"])
    assert early.exit_code == 2 and "--task: 8 found, but 8 of the 8 runs of tuning are missing" in early.output
    keep(comparison, {("independent", 0): 30.0, ("independent", 1): 20.0, ("cascade", 0): 90.0, ("cascade", 1): None})
    chosen = {run.arm: run.config.optimizer for run in tuned(comparison).runs}
    assert chosen["independent"].generator_lr == 1e-3 and chosen["cascade"].generator_lr == 1e-4
    assert chosen["cascade"].discriminator_lr == 2e-4
    ends = {arm: {seed: outcome(30.0 + seed) for seed in (0, 1)} for arm in comparison.config.arms}
    text = write_report(tuned(comparison), ends, tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| cascade | optimizer.generator_lr=0.0001"))
    assert row.endswith("| 4 | 2 | 0.8 |")  # runs, diverged, minutes
    keep(comparison, {("independent", 0): 30.0, ("independent", 1): 20.0, ("cascade", 0): 90.0, ("cascade", 1): -1.0})
    with pytest.raises(UserError, match=r"primary\.scale: log found, but fid of arm arm, seed 0 is -1"):
        tuned(comparison)
    with pytest.raises(UserError, match=r"tuning\.seeds: 1 is among seeds"):
        load_comparison(SMOKE, (GRID.replace("7", "1"),), tmp_path)


def at(measure: str, *values: float | None) -> dict[int, Outcome]:
    """Outcomes of tuning, one for each seed; None where a run diverged."""
    return {
        seed: replace(outcome(value), measures={} if value is None else {measure: value})
        for seed, value in enumerate(values)
    }


def test_points_of_a_grid_are_compared_by_means_on_the_scale_of_the_measure(tmp_path: Path) -> None:
    log = load_comparison(SMOKE, ("settings=[]",), tmp_path).config
    linear = load_comparison(SMOKE, ("settings=[]", "primary={measure: fid, scale: linear}"), tmp_path).config
    points = {0: at("fid", 20.0, 20.0), 1: at("fid", 1.0, 100.0)}
    assert best_point(log, points) == 1  # 10 against 20
    assert best_point(linear, points) == 0  # 50.5 against 20
    assert best_point(log, {0: at("fid", 0.1, None), **{1: points[0]}}) == 1
    assert best_point(log, {0: points[0], 1: points[0]}) == 0


def test_where_more_is_better_tuning_takes_the_highest_point_that_did_not_diverge(tmp_path: Path) -> None:
    config = load_comparison(SMOKE, ("settings=['evaluation.metrics=[is, fid]']", "primary=is"), tmp_path).config
    points = {0: at("is", 2.0, 2.0), 1: at("is", 3.0, 5.0), 2: at("is", 9.0, None), 3: at("is", 3.0, 3.0)}
    assert best_point(config, points) == 1


def test_the_summary_is_rliables(tmp_path: Path) -> None:
    first = Task(np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 9.0]), True)
    # Of 9 pairs the arm's 0.5 is below all three, 2.0 below one and equal to one, 9.0 below none: (3 + 1.5) / 9.
    assert probability_of_improvement([first]) == pytest.approx(4.5 / 9)
    second = Task(np.zeros(4), np.array([-1.0, -2.0, -3.0, math.inf]), True)
    assert probability_of_improvement([first, second]) == pytest.approx((4.5 / 9 + 3 / 4) / 2)
    changes = sorted([-0.5, 0.0, 6.0, -1.0, -2.0, -3.0, math.inf])
    assert interquartile_mean([first, second]) == pytest.approx(np.mean(changes[1:-1]))
    found = stratified([second], probability_of_improvement)
    assert found.low <= found.value <= found.high == 1.0
    with pytest.raises(ValueError):
        interquartile_mean([Task(np.zeros(2), np.ones(2), False)])


def test_resampling_keeps_pairs_together_and_within_their_experiment() -> None:
    few, many = (Task(np.arange(count) + start, np.arange(count) + start + 0.5, True) for count, start in
                 ((3, 0.0), (40, 100.0)))  # fmt: skip

    def mean(tasks: Sequence[Task]) -> float:
        first, second = tasks
        assert (len(first.base), len(second.base)) == (3, 40)
        assert all((task.arm - task.base == 0.5).all() for task in tasks)
        assert set(first.base) <= set(few.base) and set(second.base) <= set(many.base)
        return float(second.base.mean())

    found = stratified([few, many], mean)
    half = 1.96 * many.base.std() / math.sqrt(40)  # the interval of the mean of 40
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=0.1)


def test_the_summary_of_kept_outcomes_is_that_of_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "RESAMPLES", 20)
    names = ("cascade_stacked_digits", "cascade_loss")

    def measured(name: str, arm: str) -> list[float]:
        kept = (ROOT / "docs" / "results" / name / f"{arm}_seed{seed}.json" for seed in range(5))
        return [json.loads(path.read_text())["measures"]["kl_modes"] for path in kept]

    lines = summary.summarise([SMOKE.parent / f"{name}.yaml" for name in names], (), None).splitlines()
    for base, arm in (("linear", "energy_cascade_4"), ("independent_4", "cascade_4")):
        chances, changes = [], []
        for name in names:
            first, second = measured(name, base), measured(name, arm)
            chances.append(np.mean([one < other for one in second for other in first]))
            changes += [math.log(one / other) for one, other in zip(second, first, strict=True)]
        middle = math.exp(np.mean(sorted(changes)[2:8]))  # of ten, a quarter (two) is left out at either end
        (row,) = (line for line in lines if line.startswith(f"| {arm} / {base} |"))
        cells = row.split(" | ")
        assert cells[3] == f"{np.mean(chances):.2f}"
        assert float(cells[5]) == pytest.approx(middle, rel=0.01)


def test_where_more_is_better_the_summary_still_says_better_and_a_ratio_below_1(tmp_path: Path) -> None:
    overrides = ("settings=['evaluation.metrics=[vendi]']", "primary=vendi", f"results={tmp_path}")
    for planned in load_comparison(SMOKE, overrides, tmp_path).runs:
        value = (4.0 if planned.arm == "cascade" else 2.0) + planned.seed / 100
        kept = replace(at("vendi", value)[0], arm=planned.arm, seed=planned.seed)
        save_outcome(
            tmp_path, planned, replace(kept, config=planned.config.model_dump(), mode_samples=planned.modes_read)
        )
    text = summary.summarise([SMOKE], overrides, None)
    (row,) = (line for line in text.splitlines() if line.startswith("| cascade / independent |"))
    assert row.split(" | ")[3] == "1.00" and row.split(" | ")[5] == "0.50"


def test_several_experiments_are_summarised_from_what_may_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("cascade_stacked_digits", "cascade_loss")
    result = CliRunner().invoke(main, ["--summary", *(str(SMOKE.parent / f"{name}.yaml") for name in names)])
    assert result.exit_code == 0
    row = next(line for line in result.output.splitlines() if line.startswith("| energy_cascade_4 / linear |"))
    assert "| cascade_stacked_digits, cascade_loss | 10 |" in row
    twice = CliRunner().invoke(main, ["--summary", str(SMOKE.parent / f"{names[0]}.yaml"), f"{names[0]}.yaml"])
    assert twice.exit_code == 2
    monkeypatch.chdir(tmp_path)  # where no outputs/smoke lies
    copied = tmp_path / f"{names[0]}.yaml"
    copied.write_text((SMOKE.parent / copied.name).read_text().replace("../", f"{ROOT}/configs/"))
    same = CliRunner().invoke(main, ["--summary", str(SMOKE.parent / copied.name), str(copied)])
    assert same.exit_code == 2 and f"another experiment is called {names[0]} too" in same.output
    unread = CliRunner().invoke(main, ["--summary", str(SMOKE)])
    assert unread.exit_code == 2 and "no verdict yet" in unread.output


def test_every_arm_is_built_before_one_is_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    misspelt = "arms={independent: [], cascade: [discriminator.head.name=cascading_rejectoin]}"
    result = CliRunner().invoke(main, [str(SMOKE), "--set", misspelt, "--out", str(out)])
    assert result.exit_code == 2 and "arms.cascade: discriminator.head.name" in result.output and not out.exists()


def test_what_the_stages_did_is_averaged_over_seeds(tmp_path: Path) -> None:
    def curve(margin: float) -> tuple[dict[str, float], ...]:
        stages = {f"scores/margin/stage_{k}": margin + k for k in range(1, 12)}
        return {"step": 5, "evaluation/fid": 3.0}, {"step": 6, "stages/score_correlation": margin / 2, **stages}

    ends = {seed: replace(outcome(30.0 + seed), curve=curve(margin)) for seed, margin in enumerate((0.25, 0.75))}
    comparison = load_comparison(SMOKE, ("settings=[]",), tmp_path)
    text = write_report(comparison, {"independent": {0: outcome(30.0), 1: outcome(31.0)}, "cascade": ends}, tmp_path)
    row = next(line for line in text.partition("The stages in")[2].splitlines() if line.startswith("| cascade |"))
    assert "independent" not in text.partition("The stages in")[2].partition("Protocol")[0]
    margins = ", ".join(f"{k + 0.5:.2f}" for k in range(1, 12))
    assert row == f"| cascade | 0.25 | {margins} |"  # and no column of diagnostics that no run has
    assert "| arm | correlation of scores | margin, from the first |" in text


def test_heads_without_their_control_are_warned_of(tmp_path: Path) -> None:
    arms = "arms={linear: ['discriminator.head={name: linear}'], cascade: []}"
    comparison = load_comparison(SMOKE, (arms,), tmp_path)
    assert "No `independent` arm" in report_of(comparison, tmp_path, {"linear": [3.0, 4.0], "cascade": [3.0, 5.0]})
    arms = "arms={none: ['discriminator.head.options.rejection=none'], cascade: []}"
    comparison = load_comparison(SMOKE, (arms,), tmp_path)
    assert "`independent`" not in report_of(comparison, tmp_path, {"none": [3.0, 4.0], "cascade": [3.0, 5.0]})


def test_kept_outcomes_belong_to_their_config(comparison: Comparison, tmp_path: Path) -> None:
    planned = comparison.runs[0]
    kept = replace(outcome(3.0), config=planned.config.model_dump(), mode_samples=planned.mode_samples)
    save_outcome(tmp_path, planned, kept)
    assert load_outcome(tmp_path, planned) == kept
    others = {
        ("settings=[training.steps=61]",): r"training\.steps was 1800, now 61",
        ("settings=[evaluation.samples=9]",): r"evaluation\.samples was \d+, now 9",
        ("settings=[training.recoveries=3]",): r"training\.recoveries was 0, now 3",
        ("settings=[training.accumulation=2]",): r"training\.accumulation was 1, now 2",
        ("settings=[]", "mode_samples=9"): "mode_samples was 10000, now 9",
        (
            "settings=[]",
            "feature_spaces=[random_convolutions]",
        ): r"feature_spaces was \[\], now \['random_convolutions'\]",
        ("settings=[optimizer.epsilon=1e-6]",): r"optimizer\.epsilon was 1e-08, now 1e-06",
        (f"settings=['{R1}']",): r"regularizers\.r1\.interval was not there, now 1",
    }
    for overrides, message in others.items():
        changed = load_comparison(SMOKE, overrides, tmp_path).runs[0]
        with pytest.raises(UserError, match=message):
            load_outcome(tmp_path, changed)


def test_an_outcome_of_an_arm_that_had_more_is_not_one_of_the_arm_without(tmp_path: Path) -> None:
    richer = load_comparison(SMOKE, (f"settings=['{R1}']",), tmp_path).runs[0]
    kept = replace(outcome(3.0), config=richer.config.model_dump(), mode_samples=richer.mode_samples)
    save_outcome(tmp_path, richer, kept)
    plain = load_comparison(SMOKE, ("settings=[]",), tmp_path).runs[0]
    with pytest.raises(UserError, match=r"training\.steps was|regularizers\.r1\.interval was 1, now not there"):
        load_outcome(tmp_path, plain)


def test_an_outcome_outlives_a_key_that_the_schema_gains_and_notices_a_default_that_moves(
    comparison: Comparison, tmp_path: Path
) -> None:
    planned = comparison.runs[0]
    config = planned.config.model_dump()
    del config["optimizer"]["epsilon"]  # as if written before there was one
    older = replace(outcome(3.0), config=config, mode_samples=planned.mode_samples)
    save_outcome(tmp_path, planned, older)
    assert load_outcome(tmp_path, planned) == older
    config["optimizer"]["epsilon"] = 1e-7  # as if that had been the default
    save_outcome(tmp_path, planned, older)
    with pytest.raises(UserError, match=r"optimizer\.epsilon was 1e-07, now 1e-08"):
        load_outcome(tmp_path, planned)


def test_fdr_decides_where_feature_spaces_are_named(tmp_path: Path) -> None:
    spaces = "feature_spaces=[random_convolutions, efficientnet_lite0]"
    comparison = load_comparison(SMOKE, ("primary=fdr", spaces), tmp_path)
    assert comparison.config.rule.log and comparison.config.rule.lower_is_better
    assert comparison.runs[0].feature_spaces == ("random_convolutions", "efficientnet_lite0")
    with pytest.raises(UserError, match="primary: fdr found, but feature_spaces names no extractor"):
        load_comparison(SMOKE, ("primary=fdr",), tmp_path)
    with pytest.raises(UserError, match="feature_spaces: no extractor 'incepton'; did you mean 'inception'"):
        load_comparison(SMOKE, ("feature_spaces=[incepton]",), tmp_path)


def test_a_run_that_diverged_belongs_to_a_comparison_with_feature_spaces_too(tmp_path: Path) -> None:
    planned = load_comparison(SMOKE, ("feature_spaces=[random_convolutions]",), tmp_path).runs[0]
    (tmp_path / "run").mkdir()
    ended = read_outcome(planned, tmp_path / "run", True, {}, {}, "cpu", 1)
    save_outcome(tmp_path, planned, ended)
    assert load_outcome(tmp_path, planned) == ended and ended.feature_spaces == {"random_convolutions": {}}


FIRST_KEYS = {
    "fid": "frechet_distance", "is": "inception_score_mean", "kid": "kernel_distance_mean", "prc": "precision",
    "dc": "density", "mind": "monge_inception_distance", "cmmd": "clip_discrepancy", "vendi": "vendi_score",
    "authenticity": "authenticity", "fid_infinity": "frechet_distance_infinity",
    "intra_fid": "intra_frechet_distance_mean", "mode_divergence": "mode_divergence", "mode_count": "mode_count",
}  # fmt: skip


def test_the_measure_of_a_metric_is_its_number_that_counts(tmp_path: Path) -> None:
    """Not a deviation, a slope, or the second of two."""
    planned = load_comparison(SMOKE, (f"settings=['evaluation.metrics=[{', '.join(METRICS)}]']",), tmp_path).runs[0]
    numbers = {
        key: float(number) for number, key in enumerate(key for metric in METRICS.values() for key in metric.keys)
    }
    result = Result(numbers, replace(PROTOCOL, weights="ema"), 1.0, 1.0)
    save_result(tmp_path / "evaluations", planned.config.training.steps, result, planned.config.evaluation)
    found = read_outcome(planned, tmp_path, False, {"extra": 0.5}, {}, "cpu", 1)
    assert found.measures == {"extra": 0.5} | {name: numbers[key] for name, key in FIRST_KEYS.items()}


def test_modes_of_a_run_are_how_many_and_their_divergence_from_the_real_ones(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, real = np.array([60, 40, 0]), np.array([10, 10, 80])
    share, expected = (counts + 0.5) / (100 + 1.5), (real + 0.5) / (100 + 1.5)

    def read(planned: object, run: object, diverged: bool, extra: dict[str, float], *rest: object) -> Outcome:
        return replace(outcome(1.0), measures=extra)

    monkeypatch.setattr(runner, "train", lambda *given: False)
    monkeypatch.setattr(runner, "open_run", lambda *given: None)
    modes = SimpleNamespace(report=compare_occupancy(counts, real, "abc", 0))
    monkeypatch.setattr(runner, "digit_modes", lambda run: modes)
    monkeypatch.setattr(runner, "read_outcome", read)
    found = runner.run_one(comparison.runs[0], tmp_path / "results", tmp_path, "cpu", 1).measures
    assert found == {"modes": 2, "kl_modes": pytest.approx((share * np.log(share / expected)).sum())}
    assert found["kl_modes"] != pytest.approx((expected * np.log(expected / share)).sum(), rel=0.1)


def test_ratios_that_were_measured_in_other_ways_are_never_compared(comparison: Comparison, tmp_path: Path) -> None:
    spaces = [
        {"random_convolutions": replace(PROTOCOL, extractor_weights=weights * 64).to_dict()} for weights in ("a", "b")
    ]
    for second, words in ((spaces[0], None), (spaces[1], "arm cascade, seed 3: extractor_weights differ")):
        measured = {arm: {seed: replace(outcome(2.0 + seed), feature_spaces=spaces[0]) for seed in range(4)}
                    for arm in comparison.config.arms}  # fmt: skip
        measured["cascade"][3] = replace(measured["cascade"][3], feature_spaces=second)
        with pytest.raises(UserError, match=words) if words else nullcontext():
            write_report(comparison, measured, tmp_path)


def test_weights_of_a_feature_space_that_cannot_be_had_are_missed_before_the_first_run(tmp_path: Path) -> None:
    comparison = load_comparison(SMOKE, ("feature_spaces=[random_convolutions, dinov2-vit-s-14]",), tmp_path)
    with pytest.raises(UserError, match="feature_spaces: dinov2-vit-s-14: no weights given"):
        require_buildable(tmp_path, comparison.runs)


@pytest.mark.parametrize(
    "path",
    sorted(path for path in SMOKE.parent.glob("*.yaml") if "task: comparison" in path.read_text()),
    ids=lambda path: path.stem,
)
def test_every_shipped_comparison_resolves_and_its_arms_share_their_start(path: Path, tmp_path: Path) -> None:
    comparison = load_comparison(path, (), tmp_path)
    first, *others = (run.config for run in comparison.runs if run.seed == comparison.config.seeds[0])
    for other in others:
        assert (other.generator, other.data, other.discriminator.backbone) == (
            first.generator,
            first.data,
            first.discriminator.backbone,
        )
    assert len(comparison.runs) == len(comparison.config.arms) * len(comparison.config.seeds)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arms.cascade=[discriminator.haed.name=linear]", "arms.cascade: discriminator.haed: unknown key"),
        ("arms.cascade=[nonsense]", "arms.cascade: --set nonsense"),
        ("primary=fdi", "primary.measure: no 'fdi'; did you mean 'fid'"),
        ("primary=kid", "primary: kid found, but evaluation.metrics of arm independent lacks it"),
        ("seeds=[1, 1]", "seeds: one appears twice"),
        ("looks=[1, 2]", "looks: [1, 2] found; ascending numbers from 2 on, the last 2, accepted"),
        ("looks=[2, 3]", "looks: [2, 3] found; ascending numbers from 2 on, the last 2, accepted"),
        ("looks=[]", "looks: [] found; ascending numbers from 2 on, the last 2, accepted"),
        ("also_compare=[[independent, cascad]]", "also_compare: no arm 'cascad'; did you mean 'cascade'"),
        ("base=nowhere.yaml", "nowhere.yaml: No such file"),
        ("arms={../x: []}", "arms.../x: letters, digits"),
        ("arm={}", "arm: unknown key; did you mean 'arms'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(override: str, message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(SMOKE), "--set", override, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in result.output and len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_in_the_middle_and_rerun_it_reports_the_same(tmp_path: Path) -> None:
    settings = f"settings=[conditional=false, generator.width=4, discriminator.backbone.width=4, training.steps=6, \
data.root={tmp_path}/data, checkpoint.every=2, evaluation.samples=20, evaluation.reference=test]"
    options = ["--set", settings, "--set", "seeds=[0]", "--device", "cpu"]
    whole = CliRunner().invoke(main, [str(SMOKE), *options, "--out", str(tmp_path / "whole")])
    assert whole.exit_code == 0
    command = [sys.executable, str(ROOT / "compare.py"), str(SMOKE), *options, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    while process.poll() is None and not list((tmp_path / "killed").glob("runs/*/checkpoints/*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    again = CliRunner().invoke(main, [str(SMOKE), *options, "--out", str(tmp_path / "killed")])
    assert again.exit_code == 0
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "killed")]
    for report in reports:
        for outcomes in report["arms"].values():
            for one in outcomes:
                one.pop("seconds")
                one["curve"] = [{name: v for name, v in point.items() if name != "seconds"} for point in one["curve"]]
                one["curve"] = [
                    {name: value for name, value in point.items() if name != "evaluation/seconds"}
                    for point in one["curve"]
                ]
    assert reports[0] == reports[1]


TINY = (
    "settings=[conditional=false, generator.width=4, discriminator.backbone.width=4, training.steps=4, "
    "checkpoint.every=2, evaluation.samples=20, evaluation.reference=test]"
)


@pytest.mark.slow
def test_four_tasks_of_a_scheduler_are_four_processes_and_one_report(tmp_path: Path) -> None:
    """Each runs its own line of --list; whoever reports finds what all of them left in the shared folder."""
    shared = ["--set", TINY, "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "compare.py"), str(SMOKE), *shared, "--device", "cpu", "--task"]
    listed = CliRunner().invoke(main, [str(SMOKE), *shared, "--list"])
    names = [line.split("\t") for line in listed.output.splitlines()]
    assert [name[0] for name in names] == ["0", "1", "2", "3"] and {name[2] for name in names} == {"missing"}
    tasks = [
        subprocess.Popen(
            [*command, str(task)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        for task in range(4)
    ]
    for name, task in zip(names, tasks, strict=True):
        output, errors = task.communicate(timeout=500)
        assert task.returncode == 0, errors
        assert output.startswith(name[1]) and "finished after" in output
    assert "missing" not in CliRunner().invoke(main, [str(SMOKE), *shared, "--list"]).output
    report = CliRunner().invoke(main, [str(SMOKE), *shared, "--report-only"])
    assert report.exit_code == 0 and "**cascade** " in report.output and "missing" not in report.output
    kept = json.loads((tmp_path / "out" / "results" / "cascade_seed1.json").read_text())
    assert kept["made_by"]["threads"] == 1 and kept["made_by"]["device"] == "cpu"
    assert kept["made_by"]["versions"]["numpy"] == np.__version__
    assert kept["made_by"]["precision"] == resolve_precision("auto", torch.device("cpu"))


def test_a_run_that_another_process_is_at_work_on_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with RunDirectory(out / "runs" / "cascade_seed0.task").claimed():
        result = CliRunner().invoke(main, [str(SMOKE), "--set", TINY, "--out", str(out), "--task", "1"])
    assert result.exit_code == 2
    assert result.output.strip() == "compare: arm cascade, seed 0: another process is at work on it"
    beyond = CliRunner().invoke(main, [str(SMOKE), "--set", TINY, "--out", str(out), "--task", "4"])
    assert beyond.exit_code == 2 and "--task: 4 found, 0 to 3 accepted" in beyond.output
    both = CliRunner().invoke(main, [str(SMOKE), "--list", "--summary"])
    assert both.exit_code == 2 and "--list and --summary exclude each other" in both.output


def test_the_page_needs_nothing_else_and_escapes_what_it_is_told(comparison: Comparison, tmp_path: Path) -> None:
    config = comparison.config.model_copy(update={"question": "Is <script>alert(1)</script> & so on fine?"})
    outcomes = {"independent": [30.0, 40, 50, 60], "cascade": [15.0, 20.2, 24.8, 30.1]}
    report_of(replace(comparison, config=config), tmp_path, outcomes)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so on" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page) and "@import" not in page and "url(" not in page
    assert page.index("<img") < page.index("<li>") < page.index("<table")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here to open the page in")
def test_a_browser_shows_the_page(comparison: Comparison, tmp_path: Path) -> None:
    report_of(comparison, tmp_path, {"independent": [30.0, 40, 50, 60], "cascade": [15.0, 20.2, 24.8, 30.1]})
    # The page itself has no script: what the browser made of it is read by one that is added here.
    probe = tmp_path / "probe.html"
    widths = "[...document.images].map(image => image.complete && image.naturalWidth).join()"
    read = f"{widths} + ' ' + document.querySelectorAll('li').length"
    page = (tmp_path / "report.html").read_text()
    probe.write_text(f"{page}<script>onload = () => document.title = {read}</script>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-sync", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    shown = subprocess.run(
        ["chromium", *options, probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    title = re.search(r"<title>(.*?)</title>", shown)
    assert title is not None and title[1] == "1100 1"


@pytest.mark.slow
def test_a_tuned_comparison_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its runs have the values that tuning chose, and so have their outcomes when the command is given again."""
    grid = "tuning={seeds: [7], grid: {optimizer.generator_lr: [1e-4, 1e-3]}}"
    options = [str(SMOKE), "--device", "cpu", "--out", str(tmp_path / "out")]
    for override in (TINY, grid, "arms={cascade: []}", "seeds=[0]"):
        options += ["--set", override]
    first = CliRunner().invoke(main, options)
    assert first.exit_code == 0, first.output
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "results").rglob("*.json")}
    assert len(before) == 3
    chosen = json.loads((tmp_path / "out" / "results" / "cascade_seed0.json").read_text())["config"]["optimizer"]
    assert f"optimizer.generator_lr={chosen['generator_lr']}" in first.output
    again = CliRunner().invoke(main, options)
    assert again.exit_code == 0, again.output
    assert {path: path.read_bytes() for path in before} == before
    trial = tmp_path / "out" / "results" / "tuning" / "cascade_trial0_seed7.json"
    trial.unlink()  # then nobody knows yet what the arm's settings are, and the kept outcome is nobody's mistake
    reported = CliRunner().invoke(main, [*options, "--report-only"])
    assert reported.exit_code == 0 and "1 of the 2 runs of tuning are missing" in reported.output
    listed = CliRunner().invoke(main, [*options, "--list"])
    assert listed.exit_code == 0 and listed.output.count("missing") == 2
    last = CliRunner().invoke(main, options)
    assert last.exit_code == 0 and trial.exists()
    assert (
        json.loads((tmp_path / "out" / "results" / "cascade_seed0.json").read_text())["config"]["optimizer"] == chosen
    )


@pytest.mark.slow
def test_a_run_that_was_begun_otherwise_is_neither_lengthened_nor_scored_again(tmp_path: Path) -> None:
    """Its rates have decayed, and what it measured on the way was measured otherwise."""
    options = [str(SMOKE), "--device", "cpu", "--out", str(tmp_path / "out"), "--set", "arms={cascade: []}"]
    options += ["--set", "seeds=[0]", "--set"]
    assert CliRunner().invoke(main, [*options, TINY]).exit_code == 0
    shutil.rmtree(tmp_path / "out" / "results")
    for was, now in (("training.steps=4", "training.steps=6"), ("evaluation.samples=20", "evaluation.samples=24")):
        result = CliRunner().invoke(main, [*options, TINY.replace(was, now)])
        assert result.exit_code == 2
        assert f"holds a run with {was.replace('=', ' ')}, not {now.split('=')[1]}; remove it" in result.output
    assert CliRunner().invoke(main, [*options, TINY]).exit_code == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: {**kept, "measures": {"fid": "low"}},
        lambda kept: {**kept, "measures": {"fid": math.nan}},
        lambda kept: {**kept, "curve": [{"step": None}]},
        lambda kept: {name: value for name, value in kept.items() if name != "seconds"},
        lambda kept: [kept],
    ],
)
def test_a_damaged_outcome_is_one_line(comparison: Comparison, tmp_path: Path, damage: Callable[[Any], Any]) -> None:
    planned = comparison.runs[0]
    kept = replace(outcome(3.0), config=planned.config.model_dump(), mode_samples=planned.mode_samples)
    save_outcome(tmp_path, planned, kept)
    path = outcome_path(tmp_path, planned)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(UserError, match="not an outcome of a run; remove it"):
        load_outcome(tmp_path, planned)


def test_an_outcome_without_the_measure_that_decides_is_named(comparison: Comparison, tmp_path: Path) -> None:
    outcomes = {arm: {seed: outcome(30.0 + seed) for seed in range(4)} for arm in ("independent", "cascade")}
    outcomes["cascade"][2] = replace(outcome(30.0), measures={"kid": 0.1})
    with pytest.raises(UserError, match="the outcome of arm cascade, seed 2 has no fid"):
        write_report(comparison, outcomes, tmp_path)


def test_arms_of_a_seed_in_different_precisions_are_warned_of(comparison: Comparison, tmp_path: Path) -> None:
    """`training.precision: auto` follows the machine, so that two machines may compute one pair differently."""

    def run(value: float, precision: str, asked: str = "auto") -> Outcome:
        return replace(outcome(value), config={"training": {"precision": asked}}, made_by={"precision": precision})

    base = {seed: run(30.0 + seed, "float32") for seed in range(4)}
    same = write_report(comparison, {"independent": base, "cascade": base}, tmp_path)
    assert "different precisions" not in same
    other = {**base, 2: run(31.0, "bfloat16")}
    mixed = write_report(comparison, {"independent": base, "cascade": other}, tmp_path)
    assert "**Arms of a seed were computed in different precisions**: 2." in mixed
    asked = {seed: run(30.0 + seed, "bfloat16", "bfloat16") for seed in range(4)}  # it is what is compared
    assert "different precisions" not in write_report(comparison, {"independent": base, "cascade": asked}, tmp_path)


# means over the last measurements


def test_the_primary_measure_is_the_mean_of_the_last_measurements() -> None:
    curve = tuple({"step": step, "evaluation/mode_divergence": value} for step, value in ((1, 9.0), (2, 1.0), (3, 4.0)))
    measured = replace(outcome(4.0), measures={"mode_divergence": 4.0, "fid": 7.0}, curve=(*curve, curve[-1]))
    for points, scale, expected in ((1, "log", 4.0), (2, "log", 2.0), (2, "linear", 2.5), (3, "log", 36 ** (1 / 3))):
        primary = Primary(measure="mode_divergence", scale=scale, points=points)
        measures = averaged(measured, primary).measures
        assert measures == {"mode_divergence": pytest.approx(expected), "fid": 7.0}
    with pytest.raises(UserError, match="has 3 values of mode_divergence; accepted: 4"):
        averaged(measured, Primary(measure="mode_divergence", points=4))


def test_more_measurements_than_a_run_has_are_refused(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "experiments" / "stacked_mnist.yaml").read_text(encoding="utf-8")
    path = tmp_path / "many.yaml"
    path.write_text(text.replace("base: ../", f"base: {ROOT}/configs/").replace("points: 3", "points: 7"))
    with pytest.raises(UserError, match="points: 7 found, but arm linear is measured 6 times"):
        load_comparison(path, (), tmp_path)
