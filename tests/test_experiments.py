"""Comparisons: statistics against scipy and simulations, sentences against known outcomes, killing and rerunning."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from gan.experiments.comparison_config import Comparison, load_comparison
from PIL import Image
from scipy import stats

from compare import main
from gan.errors import UserError
from gan.experiments.outcomes import Outcome, load_outcome, save_outcome
from gan.experiments.report import write_report
from gan.experiments.statistics import compare_pairs, holm, paired_difference, pairs_needed
from tests import ROOT

SMOKE = ROOT / "configs" / "experiments" / "smoke.yaml"
COMPARISONS = sorted(path for path in SMOKE.parent.glob("*.yaml") if "task: comparison" in path.read_text())


def test_pairs_are_compared_as_scipy_does() -> None:
    random = np.random.default_rng(0)
    first = random.normal(50, 5, 12)
    second = first + random.normal(-1, 2, 12)
    found = compare_pairs(list(first), list(second), smallest=1.0)
    test = stats.ttest_rel(second, first)
    low, high = test.confidence_interval(0.95)
    assert found.t_p == pytest.approx(test.pvalue, rel=1e-9)
    assert (found.t.low, found.t.high) == pytest.approx((low, high), rel=1e-12)
    percentile = stats.bootstrap(
        (second - first,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.bootstrap == pytest.approx((percentile.low, percentile.high), abs=0.06)
    assert found.sign_p == stats.binomtest(int((second > first).sum()), 12).pvalue
    assert found.effect == pytest.approx((second - first).mean() / (second - first).std(ddof=1))


def test_the_interval_of_a_known_effect_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    covered = []
    for _ in range(3000):
        shared = random.normal(0, 10, 5)  # what seeds share does not widen the interval
        found = paired_difference(list(shared), list(shared + random.normal(2, 1, 5)))
        covered.append(found.low <= 2 <= found.high)
        assert found.high - found.low < 8
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(("deviation", "difference"), [(1.0, 1.0), (3.0, 2.0), (1.0, 2.5)])
def test_the_seeds_that_are_needed_reach_the_power(deviation: float, difference: float) -> None:
    needed = pairs_needed(deviation, difference)
    assert needed is not None
    random = np.random.default_rng(4)

    def power(pairs: int) -> float:
        draws = random.normal(difference, deviation, (20_000, pairs))
        return float((stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean())

    assert power(needed) > 0.785
    assert power(needed - 1) < 0.815 or needed == 2


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
    assert compare_pairs([1.0, 1.0], [1.0, 1.0], 0.1).sign_p == 1.0


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return load_comparison(SMOKE, ("seeds=[0, 1, 2, 3]", "settings=[]"), tmp_path)


def outcome(value: float | None) -> Outcome:
    measures = {} if value is None else {"fid": value}
    return Outcome("arm", 0, {}, None, value is None, measures, 60, 12.0, "a machine")


def report_of(comparison: Comparison, tmp_path: Path, arms: dict[str, list[float | None]]) -> str:
    outcomes = {arm: {seed: outcome(value) for seed, value in enumerate(values)} for arm, values in arms.items()}
    return write_report(comparison, outcomes, tmp_path)


def test_a_clear_difference_is_said_with_its_direction(comparison: Comparison, tmp_path: Path) -> None:
    text = report_of(comparison, tmp_path, {"independent": [30.0, 40, 50, 60], "cascade": [28.0, 38.1, 48.2, 57.9]})
    assert "**cascade** is better than independent in fid (-1.950, 95 % interval" in text
    text = report_of(comparison, tmp_path, {"independent": [30.0, 40, 50, 60], "cascade": [32.0, 42.1, 52.2, 61.9]})
    assert "**cascade** is worse than independent" in text
    higher = replace(comparison, config=comparison.config.model_copy(update={"primary": "is"}))
    assert not higher.lower_is_better


def test_further_pairs_are_compared_too(tmp_path: Path) -> None:
    arms = "arms={linear: [], independent: [], cascade: []}"
    values = {"linear": [9.0, 8, 7, 9], "independent": [30.0, 40, 50, 60], "cascade": [28.0, 38.1, 48.2, 57.9]}
    overrides = ("seeds=[0, 1, 2, 3]", "settings=[]", arms, "also_compare=[[independent, cascade]]")
    text = report_of(load_comparison(SMOKE, overrides, tmp_path), tmp_path, values)
    assert "**cascade** is worse than linear" in text
    assert "**cascade** is better than independent in fid (-1.950, 95 % interval" in text
    assert "3 comparisons; each interval is of 95 % by itself" in text
    found = compare_pairs(values["independent"], values["cascade"], 1.0)
    row = next(line for line in text.splitlines() if line.startswith("| cascade − independent |"))
    assert f"{found.t.mean:+.3f}" in row and f"[{found.t.low:+.3f}, {found.t.high:+.3f}]" in row


def test_a_difference_that_does_not_outlast_its_company_is_not_called_one(tmp_path: Path) -> None:
    arms = "arms={linear: [], independent: [], cascade: []}"
    overrides = ("seeds=[0, 1, 2, 3]", "settings=[]", arms)
    values = {
        "linear": [30.0, 40, 50, 60],
        "independent": [30.5, 39.5, 50.5, 59.5],
        "cascade": [29.0, 38.2, 49.1, 56.9],
    }
    text = report_of(load_comparison(SMOKE, overrides, tmp_path), tmp_path, values)
    pair = compare_pairs(values["linear"], values["cascade"], 1.0)
    assert 0.025 < pair.t_p < 0.05  # by itself it excludes 0; of two, it does not
    assert f"**cascade** looks better than linear in fid ({pair.t.mean:+.2f}, 95 % interval" in text
    assert f"(p {2 * pair.t_p:.2g})" in text
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["pairs"]["cascade − linear"]["holm_p"] == pytest.approx(2 * pair.t_p)


def test_the_differences_are_drawn_where_there_are_two_arms(comparison: Comparison, tmp_path: Path) -> None:
    assert "differences.png" not in report_of(comparison, tmp_path, {"independent": [30.0, 40], "cascade": []})
    assert not (tmp_path / "differences.png").exists()
    text = report_of(comparison, tmp_path, {"independent": [30.0, None], "cascade": [28.0, 38.1]})
    assert "](differences.png)" in text
    with Image.open(tmp_path / "differences.png") as image:
        assert image.width > 800


def test_runs_to_come_are_not_called_compared(tmp_path: Path) -> None:
    text = report_of(load_comparison(SMOKE, (), tmp_path), tmp_path, {})
    assert "Nothing to compare yet: no two arms have runs." in text


def test_every_arm_is_built_before_one_is_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    misspelt = "arms={independent: [], cascade: [discriminator.head.name=cascading_rejectoin]}"
    result = CliRunner().invoke(main, [str(SMOKE), "--set", misspelt, "--out", str(out)])
    assert result.exit_code == 2 and "arms.cascade: discriminator.head.name" in result.output and not out.exists()


def test_what_the_stages_did_is_averaged_over_seeds(comparison: Comparison, tmp_path: Path) -> None:
    def curve(margin: float) -> tuple[dict[str, float], ...]:
        stages = {f"scores/margin/stage_{k}": margin + k for k in range(1, 12)}
        return {"step": 5, "evaluation/fid": 3.0}, {"step": 6, "stages/score_correlation": margin / 2, **stages}

    runs = {seed: replace(outcome(30.0 + seed), curve=curve(margin)) for seed, margin in enumerate((0.25, 0.75))}
    text = write_report(comparison, {"independent": {0: outcome(30.0), 1: outcome(31.0)}, "cascade": runs}, tmp_path)
    row = next(line for line in text.partition("The stages in")[2].splitlines() if line.startswith("| cascade |"))
    assert "independent" not in text.partition("The stages in")[2].partition("Protocol")[0]
    margins = ", ".join(f"{k + 0.5:.2f}" for k in range(1, 12))
    assert row == f"| cascade | 0.25 |  |  | {margins} |  |"


def test_noise_is_called_noise(comparison: Comparison, tmp_path: Path) -> None:
    text = report_of(comparison, tmp_path, {"independent": [30.0, 40, 50, 60], "cascade": [33.0, 36, 55, 57]})
    assert "these runs do not tell them apart" in text


def test_divergence_is_counted_and_never_dropped_silently(comparison: Comparison, tmp_path: Path) -> None:
    arms = {"independent": [30.0, 40.0, 50.0, 60.0], "cascade": [29.0, None, 49.1, 59.0]}
    text = report_of(comparison, tmp_path, arms)
    assert "Runs that diverged: cascade 1." in text and "3 seeds" in text
    row = next(line for line in text.splitlines() if line.startswith("| cascade |"))
    assert row.split("|")[3:5] == [" 4 ", " 1 "]
    text = report_of(comparison, tmp_path, {"independent": [], "cascade": [29.0, 30.0]})
    assert "**cascade** against independent: too few pairs" in text  # no other arm becomes the control
    text = report_of(comparison, tmp_path, {"independent": [30.0], "cascade": []})
    assert "Nothing to compare yet: no two arms have runs." in text
    assert "runs are missing" in text


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
        ("settings=[]", "mode_samples=9"): "mode_samples was 10000, now 9",
        ("settings=[optimizer.epsilon=1e-6]",): r"optimizer\.epsilon was 1e-08, now 1e-06",
    }
    for overrides, message in others.items():
        changed = load_comparison(SMOKE, overrides, tmp_path).runs[0]
        with pytest.raises(UserError, match=message):
            load_outcome(tmp_path, changed)


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
        ("primary=fdi", "primary: no 'fdi'; did you mean 'fid'"),
        ("primary=kid", "primary: kid found, but evaluation.metrics of arm independent lacks it"),
        ("seeds=[1, 1]", "seeds: one appears twice"),
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
    process.wait()
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
