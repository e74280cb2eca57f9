"""Heads on frozen features: the vectors, the training, the measures, the predictions, and the experiment as a whole."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from compare import main
from gan.config import check, load_tree
from gan.errors import UserError
from gan.experiments.compare import compare, report
from gan.experiments.frozen import experiment as frozen_module
from gan.experiments.frozen import report as report_module
from gan.experiments.frozen.config import FrozenArm, FrozenConfig, FrozenFeatures, HeadTraining, Prediction
from gan.experiments.frozen.experiment import FrozenExperiment
from gan.experiments.frozen.features import LEVELS, Vectors, mixed
from gan.experiments.frozen.report import measured, outcome
from gan.experiments.frozen.training import build_head, measure, train_head
from gan.experiments.outcomes import Outcome
from gan.models.heads import CascadingRejection
from tests import ROOT
from train import main as train_main

FILE = ROOT / "configs" / "experiments" / "frozen_stages.yaml"
WIDTH = 8
QUICK = HeadTraining(steps=400, early=20, batch_size=64, lr=5e-3)


def gaussians(shift: float = 0.0, spread: float = 1.0, count: int = 4000) -> Vectors:
    """White vectors, half of them real: means differ by `shift` along e_0, spreads by a factor along e_1."""
    torch.manual_seed(0)
    real, fake = torch.randn(2, 2 * count, WIDTH).unbind()
    real[:, 0] += shift / 2
    fake[:, 0] -= shift / 2
    real[:, 1] *= spread
    return Vectors(real[:count], fake[:count], real[count:], fake[count:])


def arm(name: str, whiten: bool = False, **options: object) -> FrozenArm:
    return check(FrozenArm, {"head": {"name": name, "options": options}, "whiten": whiten})


def trained(vectors: Vectors, name: str, **options: object) -> dict[str, float]:
    return train_head(build_head("arm", arm(name, **options), WIDTH, 0), vectors, QUICK, 0).measures


def test_the_shipped_file_is_accepted_and_its_heads_can_be_built(tmp_path: Path) -> None:
    experiment = FrozenExperiment(FILE, (), tmp_path)
    assert len(experiment.config.predictions) >= 8
    assert {one.arm for one in experiment.config.predictions} <= {*experiment.config.arms}
    assert experiment.run.discriminator.head.name == "linear"
    assert not experiment.run.evaluation.at_end


@pytest.mark.parametrize("whiten", [False, True])
def test_vectors_are_centred_of_one_scale_and_white_where_asked_for(whiten: bool) -> None:
    torch.manual_seed(0)
    section = FrozenFeatures(train=900, test=300, width=WIDTH)
    levels = torch.randn(2, 1200, sum(LEVELS.values())).exp().unbind()
    vectors = mixed(levels, section, 3, whiten=whiten)
    assert (len(vectors.train_real), len(vectors.test_fake)) == (900, 300)
    train = torch.cat([vectors.train_real, vectors.train_fake]).double()
    torch.testing.assert_close(train.mean(0), torch.zeros(WIDTH).double(), rtol=0, atol=1e-5)
    assert train.square().sum(1).mean().item() == pytest.approx(WIDTH, rel=1e-4)
    white = (torch.cov(train.T, correction=0) - torch.eye(WIDTH)).abs().max() < 1e-4
    assert bool(white) == whiten
    torch.testing.assert_close(mixed(levels, section, 3, whiten=whiten), vectors, rtol=0, atol=0)
    assert not torch.equal(mixed(levels, section, 4, whiten=whiten).test_real, vectors.test_real)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_no_level_outweighs_the_others_by_its_scale(level: int, whiten: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    section = FrozenFeatures(train=90, test=30, width=WIDTH)
    plain = torch.randn(2, 120, sum(LEVELS.values()), generator=generator).exp()
    larger = plain.clone()
    larger.split([*LEVELS.values()], dim=-1)[level].mul_(1000)
    first, second = (mixed((both[0], both[1]), section, 3, whiten=whiten) for both in (plain, larger))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_a_second_linear_slice_of_white_vectors_is_dead_and_a_magnitude_lives() -> None:
    means = trained(gaussians(shift=2), "sliced_cascade", stages=3, stage="linear")
    assert means["auc_1"] > 0.9
    assert abs(means["auc_2"] - 0.5) < 0.05
    spreads = trained(gaussians(spread=3), "sliced_cascade", stages=3)
    assert abs(spreads["auc_1"] - 0.5) < 0.1
    assert spreads["auc_2"] > 0.7
    assert spreads["second_moment_gap_2"] > 0.5


def test_the_read_out_is_a_logistic_regression_on_all_scores() -> None:
    vectors = gaussians(shift=1, spread=2)
    head = CascadingRejection(WIDTH, 3)
    scores = [
        head(part).detach().numpy()
        for part in (vectors.train_real, vectors.train_fake, vectors.test_real, vectors.test_fake)
    ]
    truth = [1] * 4000 + [0] * 4000
    fitted = LogisticRegression(C=1e9).fit([*scores[0], *scores[1]], truth)
    area = roc_auc_score(truth, fitted.decision_function([*scores[2], *scores[3]]))
    assert measure(head, vectors)["readout_error"] == pytest.approx(1 - area, abs=1e-4)


def test_arms_of_one_seed_see_the_same_batches_and_training_repeats() -> None:
    vectors = gaussians(shift=1)
    first, again = (trained(vectors, "cascading_rejection", rejection="decorrelated") for _ in range(2))
    assert first == again
    assert {"auc_3", "auc_3_early", "readout_error", "readout_error_early", "correlation_within_fake"} <= first.keys()
    one = trained(vectors, "linear", bias=False)
    assert one["auc_1"] == pytest.approx(trained(vectors, "independent", stages=1)["auc_1"], abs=0.01)
    assert "correlation" not in one


@pytest.mark.parametrize(
    ("values", "expected"), [([0.5, 0.52, 0.51], "confirmed"), ([0.7, 0.71, 0.7], "refuted"), ([0.5, 0.7, 0.6], "open")]
)
def test_a_prediction_is_held_against_the_interval_of_the_mean(values: list[float], expected: str) -> None:
    read = {"a": {seed: made(seed, value) for seed, value in enumerate(values)}}
    prediction = Prediction(says="", arm="a", measure="auc_2", direction="below", value=0.6)
    found, threshold = measured(prediction, read)
    assert found is not None
    assert outcome(prediction, found, threshold) == expected
    read["b"] = {seed: made(seed, value - 0.1) for seed, value in enumerate(values)}
    paired = Prediction(says="", arm="b", measure="auc_2", direction="below", than="a")
    found, threshold = measured(paired, read)
    assert found is not None
    assert found.mean == pytest.approx(-0.1)
    assert outcome(paired, found, threshold) == "confirmed"


@pytest.mark.parametrize(
    ("values", "expected"), [([0.7, 0.71, 0.7], "confirmed"), ([0.5, 0.52, 0.51], "refuted"), ([0.5, 0.7, 0.6], "open")]
)
def test_a_prediction_of_more_is_confirmed_above_and_refuted_below(values: list[float], expected: str) -> None:
    read = {"a": {seed: made(seed, value) for seed, value in enumerate(values)}}
    prediction = Prediction(says="", arm="a", measure="auc_2", direction="above", value=0.6)
    found, threshold = measured(prediction, read)
    assert found is not None
    assert outcome(prediction, found, threshold) == expected


def made(seed: int, area: float) -> Outcome:
    return Outcome("a", seed, {}, None, False, {"auc_2": area}, 1, 1.0, "here", {"generator": "g", "images": "i"})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["arms.linear.head.name=linaer"], ["arms.linear.head.name: no 'linaer'", "'linear'"]),
        (["arms.linear.head.name=projection"], ["'projection' needs labels"]),
        (["arms.linear.head.options.bais=true"], ["arms.linear.head.options.bais", "'bias'"]),
        (["training.early=5000"], ["early: 5000 found", "less than steps (5000)"]),
        (["primary.measure=fid"], ["no 'fid'"]),
        (["also_compare=[[linear, cascade]]"], ["also_compare: no arm 'cascade'"]),
        (["generator.settings=[training.stesp=3]"], ["generator: ", "training.stesp"]),
    ],
)
def test_mistakes_are_one_line(overrides: list[str], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        report(FILE, tuple(overrides), tmp_path)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def small(tmp_path: Path) -> tuple[str, ...]:
    tree = load_tree(FILE)
    arms = {name: tree["arms"][name] for name in ("independent", "decorrelated", "sliced_linear_whitened")}
    predictions = [one for one in tree["predictions"] if one["arm"] in arms and one.get("than", "independent") in arms]
    values = {
        "generator": {
            "base": str(ROOT / "configs" / "digits" / "dcgan_cr.yaml"),
            "settings": [
                "conditional=false", "generator.width=4", "discriminator.backbone.width=4", "training.steps=2",
                "training.batch_size=8", "logging.sample_count=4", f"data.root={tmp_path / 'data'}",
            ],
        },
        "arms": arms, "also_compare": [], "predictions": predictions, "seeds": [0, 1],
        "features": {"train": 40, "test": 30, "width": 8}, "training": {"steps": 20, "early": 5, "batch_size": 8},
        "primary": {"measure": "effective_number", "scale": "linear"}, "results": str(tmp_path / "results"),
    }  # fmt: skip
    return tuple(f"{key}={json.dumps(value)}" for key, value in values.items())


def test_the_committed_outcomes_are_read_and_decide_without_a_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*arguments: object) -> None:
        raise AssertionError("a generator was trained for a question that is decided")

    monkeypatch.setattr(frozen_module, "train", unwanted)
    text = compare(FILE, (), 1, ["cpu"], tmp_path)
    assert "What was predicted before any run" in text and "no verdict yet" not in text


def test_the_page_of_the_study_has_the_rows_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "draw_differences", lambda *given: None)
    kept = {line for line in report(FILE, (), tmp_path).splitlines() if line.startswith("|")}
    shown = [line for line in (ROOT / "docs" / "frozen_stages.md").read_text().splitlines() if line.startswith("|")]
    assert len(shown) == 11 + 22 + 2 * 2
    assert [line for line in shown if line not in kept] == []


@pytest.mark.parametrize(
    ("measure", "lower"),
    [
        ("readout_error", True),
        ("readout_error_early", True),
        ("correlation", True),
        ("correlation_within_fake", True),
        ("effective_number", False),
        ("auc_2", False),
        ("auc_1_early", False),
    ],
)
def test_less_of_an_error_or_a_correlation_is_better_and_more_of_the_others(measure: str, lower: bool) -> None:
    config = check(FrozenConfig, load_tree(FILE, (f"primary.measure={measure}",)))
    assert config.rule.lower_is_better == lower


@pytest.mark.slow
def test_the_experiment_trains_its_generator_and_every_head_once(tmp_path: Path) -> None:
    out, overrides = tmp_path / "out", small(tmp_path)
    check(FrozenConfig, load_tree(FILE, overrides))
    waiting = report(FILE, overrides, out)
    assert "0 of 2 seeds, no verdict yet" in waiting
    text = compare(FILE, overrides, 1, ["cpu"], out)
    assert "What was predicted before any run" in text
    assert (out / "report.html").exists()
    results = sorted((tmp_path / "results").glob("*.json"))
    assert len(results) == 6
    times = [path.stat().st_mtime_ns for path in results]
    assert compare(FILE, overrides, 1, ["cpu"], out) == text
    assert [path.stat().st_mtime_ns for path in results] == times
    with pytest.raises(UserError, match="training differ"):
        report(FILE, (*overrides, "training.lr=1e-2"), out)
    tree = json.loads(results[0].read_text())
    results[0].write_text(json.dumps({**tree, "made_by": {**tree["made_by"], "generator": "another"}}))
    with pytest.raises(UserError, match="of different generators"):
        report(FILE, overrides, out)
    results[0].write_text("{}")
    with pytest.raises(UserError, match="not an outcome of this experiment"):
        report(FILE, overrides, out)
    with pytest.raises(UserError, match="--jobs: 2 found, 1 accepted"):
        compare(FILE, overrides, 2, ["cpu"], out)


@pytest.mark.parametrize("options", [["--list"], ["--task", "0"], ["--summary"]])
def test_what_heads_on_frozen_features_cannot_do_is_said(options: list[str]) -> None:
    result = CliRunner().invoke(main, [str(FILE), *options])
    assert result.exit_code == 2 and "heads on frozen features have no runs for" in result.output


def test_an_experiment_given_to_train_is_sent_to_compare(tmp_path: Path) -> None:
    result = CliRunner().invoke(train_main, [str(FILE), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and "frozen_stages are for `gan compare`" in result.output
    assert not (tmp_path / "out").exists()
