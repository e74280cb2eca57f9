"""`evaluate.py images` and `compare`, and the best checkpoint of a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

import evaluate
import train
from gan.commands import image_sets, score
from gan.config import DataConfig, EvaluationConfig, dump_yaml, parse_yaml
from gan.errors import UserError
from gan.metrics.extractors.catalogue import build_extractor
from gan.sampling.export import export
from gan.sampling.open import open_checkpoint, read_config
from gan.scoring import scorer
from gan.scoring.ratio import run_frechet_ratios
from gan.scoring.reference_images import evenly, reference_images
from gan.scoring.saved_results import yardstick
from gan.training.best import BestCheckpoint
from gan.training.checkpoint import Checkpoints, read_checkpoint
from gan.training.run_directory import RunDirectory
from tests import DEFAULT
from tests.test_training import TINY


class Thumbnail(FeatureExtractorBase):
    """Each channel's pixels, averaged to 2 × 2: a pass takes no time."""

    def __init__(self) -> None:
        super().__init__("thumbnail", ["features", "logits"])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)
        return features, features[:, :4] * 5

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"


@pytest.fixture(autouse=True)
def small_and_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (score, scorer):
        monkeypatch.setattr(module, "build_extractor", lambda name, **options: Thumbnail())
    monkeypatch.setattr(score, "user_cache", lambda: tmp_path / "cache")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate.main, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


def pixels(count: int, seed: int, size: int = 32) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, size, size, 3), dtype=np.uint8)


def folder(path: Path, images: np.ndarray) -> Path:
    path.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(path / f"{index:03}.png")
    return path


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    np.savez(tmp_path / "set.npz", images=pixels(30, 0), labels=np.arange(30) % 2)
    return tmp_path / "set.npz"


def images_of(*arguments: object) -> dict:
    result = call("images", *arguments, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_folder_and_a_file_of_the_same_images_are_the_same(tmp_path: Path, npz: Path) -> None:
    same = folder(tmp_path / "same", pixels(30, 0))
    scores = images_of(same, npz, "--metrics", "fid,is,kid,prc,dc", "--bootstrap", 20)
    assert scores["metrics"]["frechet_distance"] == pytest.approx(0, abs=1e-8)
    assert scores["metrics"]["precision"] == scores["metrics"]["recall"] == scores["metrics"]["coverage"] == 1
    low, high = scores["intervals"]["recall"]
    assert 0.8 < low < 1 < high and scores["bootstrap"] == 20
    assert scores["skipped"] == {}
    assert images_of(npz, npz, "--metrics", "intra_fid")["classes"].keys() == {"0", "1"}
    assert "intra_fid needs labels" in refused("images", same, npz, "--metrics", "intra_fid")


def test_images_are_taken_at_even_distances(tmp_path: Path) -> None:
    assert evenly(np.arange(100), 7).tolist() == [0, 14, 28, 42, 57, 71, 85]
    assert evenly(np.arange(5), 9).tolist() == evenly(np.arange(5), None).tolist() == [0, 1, 2, 3, 4]
    labels = np.arange(40) // 4  # of ten classes, one after the other
    images = np.broadcast_to(labels[:, None, None, None], (40, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "sorted.npz", images=images, labels=labels)
    found = image_sets.open_set(str(tmp_path / "sorted.npz"), 32, 10, torch.device("cpu"), False, tmp_path / "cache")
    assert found.labels is not None
    assert found.labels.tolist() == found.images[:, 0, 0, 0].tolist() == [*range(10)]
    assert found.content is None  # it is not all of the file


@pytest.mark.parametrize(
    "name", ["my images", "été 2026", "-a (1) [x]*?", "cifar10:test", "{a,b}; $HOME 'b' \"c\" #%&", "."]
)
def test_folders_of_any_name_are_scored(tmp_path: Path, npz: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    same = Path(name) if name == "." else folder(Path(name), pixels(30, 0))
    if name == ".":
        folder(Path("images"), pixels(30, 0))
        monkeypatch.chdir("images")
    scores = images_of(f"./{same}" if name.startswith("-") else same, npz)
    assert scores["metrics"]["frechet_distance"] == pytest.approx(0, abs=1e-8)
    assert images_of(npz, f"./{name}")["protocol"]["reference"]["count"] == 30


def test_feature_spaces_stand_side_by_side_and_fdr_is_the_mean_of_their_ratios(
    tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "build_extractor", build_extractor)
    first, other = (folder(tmp_path / str(seed), pixels(30, seed) // (1 + seed)) for seed in (1, 2))
    spaces = ("random_convolutions", "mnist_digits")
    arguments = ("--extractor", ",".join(spaces), "--metrics", "fid,mind", "--held-out", other)
    found = images_of(first, npz, *arguments)
    distances = {}
    for images in (first, other):
        results = found["results"][str(images)]
        assert [result["protocol"]["extractor"] for result in results] == list(spaces)
        distances[images] = [result["metrics"]["frechet_distance"] for result in results]
        for space, result in zip(spaces, results, strict=True):
            alone = images_of(images, npz, "--extractor", space, "--metrics", "fid,mind")
            assert alone["metrics"] == pytest.approx(result["metrics"], rel=1e-9)
            assert alone["protocol"] == result["protocol"]
    expected = np.mean([one / two for one, two in zip(distances[first], distances[other], strict=True)])
    assert found["frechet_ratio"] == pytest.approx(expected)
    table = call("images", first, npz, *arguments, "--device", "cpu").stdout
    assert "FD (random_convolutions)" in table and "FD (mnist_digits)" in table and str(other) in table
    assert f"FDr: {expected:.3f}, the mean of " in table and "(random_convolutions)" in table.splitlines()[-2]
    assert "other real images than the reference accepted" in refused(
        "images", first, npz, *arguments[:4], "--held-out", npz
    )
    few = folder(tmp_path / "few", pixels(20, 3))
    assert "--held-out: 20 images found; as many as are scored, 30, accepted" in refused(
        "images", first, npz, "--held-out", few
    )
    assert "--metrics: no metric 'mnd'; did you mean 'mind'" in refused("images", first, npz, "--metrics", "mnd")
    assert "fid is not among" in refused("images", first, npz, "--held-out", other, "--metrics", "mind")
    assert "given with 2 extractors" in refused("images", first, npz, *arguments, "--weights", "x.pth")


def test_too_few_images_for_the_features_are_told_and_no_distance_is_minus_zero(tmp_path: Path, npz: Path) -> None:
    few = folder(tmp_path / "few", pixels(11, 0))  # for 12 dimensions
    told = "FD (thumbnail): 11 generated images are fewer than the 12 dimensions of the features"
    (remark,) = images_of(few, npz)["remarks"]
    assert remark.startswith(told)
    shown = call("images", few, npz, "--device", "cpu").stdout.splitlines()
    assert shown[2] == remark
    (remark,) = images_of(npz, few)["remarks"]
    assert remark.startswith("FD (thumbnail): 11 reference images")
    (remark,) = images_of(few, few)["remarks"]
    assert remark.startswith("FD (thumbnail): 11 generated and 11 reference images")
    same = call("images", npz, npz, "--device", "cpu", "--metrics", "fid,intra_fid").stdout
    assert "0.000" in same and "-0.0" not in same
    assert images_of(npz, npz)["remarks"] == []


def test_a_broken_file_is_named_or_skipped_and_counted(tmp_path: Path, npz: Path) -> None:
    broken = folder(tmp_path / "broken", pixels(10, 1))
    (broken / "005.png").write_bytes((broken / "005.png").read_bytes()[:200])
    assert "005.png" in refused("images", broken, npz)
    for _ in range(2):  # the second time from the cache
        scores = images_of(broken, npz, "--skip-corrupt")
        assert scores["skipped"] == {str(broken): 1}
        assert scores["protocol"]["generated_count"] == 9
    table = call("images", broken, npz, "--skip-corrupt", "--device", "cpu").stdout
    assert f"skipped 1 files of {broken} that cannot be read" in table
    for file in broken.iterdir():
        file.write_bytes(b"")
    assert "none of which can be read" in refused("images", broken, npz, "--skip-corrupt")


def test_every_kind_of_file_becomes_pixels_or_is_refused(tmp_path: Path, npz: Path) -> None:
    mixed = folder(tmp_path / "mixed", pixels(4, 2))
    grey = pixels(1, 3)[0, ..., 0]
    Image.fromarray(grey).save(mixed / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(mixed / "sixteen.png")
    Image.fromarray(pixels(1, 4, size=80)[0, :50]).save(mixed / "wide.png")
    Image.fromarray(np.dstack([pixels(1, 5)[0], np.full((32, 32), 128, np.uint8)])).save(mixed / "alpha.png")
    assert images_of(mixed, npz)["protocol"]["generated_count"] == 8
    for file in list(mixed.iterdir())[1:]:
        file.unlink()
    assert "1 image found, at least 2 accepted" in refused("images", mixed, npz)
    (tmp_path / "empty").mkdir()
    assert "has no images" in refused("images", tmp_path / "empty", npz)
    assert "neither a folder" in refused("images", tmp_path / "absent", npz)
    assert "did you mean 'fid'" in refused("images", npz, npz, "--metrics", "fidd")
    assert "--extractor: no extractor 'inceptoin'; did you mean 'inception'" in refused(
        "images", npz, npz, "--extractor", "inceptoin"
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of six steps, scored every two, that keeps its best."""
    options = [*TINY, "evaluation.every=2", "evaluation.at_end=true", "evaluation.samples=30", "conditional=true"]
    options += ["evaluation.metrics=[fid,kid]", "evaluation.best=fid", f"data.root={tmp_path / 'data'}"]
    settings = [part for option in options for part in ("--set", option)]
    arguments = [str(DEFAULT), *settings, "--device", "cpu", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(train.main, arguments)
    assert result.exit_code == 0, result.output
    return tmp_path / "run"


def test_the_best_checkpoint_and_the_cost_of_scoring_are_recorded(run: Path) -> None:
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scored = {line["step"]: line["evaluation/frechet_distance"] for line in logged if "evaluation/seconds" in line}
    assert list(scored) == [0, 2, 4, 6]
    best = read_checkpoint(run / "checkpoints" / "best.pt")
    step = min(scored, key=lambda step: scored[step])
    kept = {"key": "frechet_distance", "step": step, "value": scored[step]}
    assert best["best"] == {**kept, "yardstick": best["best"]["yardstick"]} and best["step"] == step
    result = call("checkpoint", run, "--best", "--device", "cpu", "--json")
    assert json.loads(result.stdout)["metrics"]["frechet_distance"] == pytest.approx(scored[step])
    assert json.loads(result.stdout)["step"] == step


def test_a_run_stands_for_the_images_it_generates(run: Path, tmp_path: Path) -> None:
    saved = json.loads(next((run / "evaluations").glob("step_00000006_ema*")).read_text())
    both = images_of(run, run / "checkpoints" / "step_00000006.pt", "--limit", 30, "--metrics", "fid,intra_fid")
    assert both["metrics"]["frechet_distance"] == pytest.approx(0, abs=1e-8)
    assert both["protocol"]["reference"]["image_shape"] == saved["protocol"]["reference"]["image_shape"]
    assert (both["protocol"]["weights"], both["protocol"]["label_sampling"]) == ("ema", "uniform")
    digits = images_of(run, "digits:all", "--limit", 30, "--reference-limit", 100_000)
    assert digits["metrics"]["frechet_distance"] == pytest.approx(saved["metrics"]["frechet_distance"])
    (tmp_path / "run" / "checkpoints" / "step_00000006.pt").write_bytes(b"x")
    assert "damaged" in refused("images", run, "digits:test")


def test_fdr_of_a_run_compares_with_its_training_images(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (score, scorer):
        monkeypatch.setattr(module, "build_extractor", build_extractor)
    spaces = ["random_convolutions", "mnist_digits"]
    generator = open_checkpoint(run, device="cpu", settings={"reference": "test"})
    options = ("--extractor", ",".join(spaces), "--limit", 30, "--reference-limit", 100_000)
    expected = images_of(run, "digits:test", "--held-out", "digits:train", *options)["frechet_ratio"]
    found = run_frechet_ratios(generator, spaces)
    assert np.mean([one.ratio for one in found.values()]) == pytest.approx(expected, rel=1e-6)
    assert list(found) == spaces == [one.protocol.extractor for one in found.values()]
    with pytest.raises(UserError, match=r"evaluation\.reference: train found, the training images"):
        run_frechet_ratios(open_checkpoint(run, device="cpu", settings={"reference": "train"}), spaces)
    with pytest.raises(UserError, match=r"evaluation\.samples: 5,000 found"):
        run_frechet_ratios(open_checkpoint(run, device="cpu", settings={"samples": 5000}), spaces)


def test_an_exported_folder_is_scored_as_its_run_and_not_written_into(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = export(run, "safetensors", tmp_path / "shared")
    before = {file: file.read_bytes() for file in shared.iterdir()}
    (saved,) = [json.loads(file.read_text()) for file in (run / "evaluations").glob("step_00000006_ema*")]
    monkeypatch.chdir(tmp_path)
    result = call("checkpoint", shared, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    scored = json.loads(result.stdout)
    assert scored["step"] == 6 and scored["protocol"] == saved["protocol"]
    assert scored["metrics"]["frechet_distance"] == pytest.approx(saved["metrics"]["frechet_distance"])
    shown = call("checkpoint", "shared/model.safetensors", "--device", "cpu").stdout.splitlines()
    assert shown[1].startswith("shared step 6 ema") and shown[2].startswith("  when it was exported")
    assert shown[1].split()[4] == shown[2].split()[4] == f"{saved['metrics']['frechet_distance']:.3f}"
    assert "when it was exported" not in call("checkpoint", shared, "--samples", 20, "--device", "cpu").stdout
    assert "step 2 of ema asked for, 6 of ema held" in refused("checkpoint", shared, "--step", 2)
    assert "of raw asked for" in refused("checkpoint", shared, "--raw")
    both = images_of(shared, run, "--limit", 20)
    assert both["metrics"]["frechet_distance"] == pytest.approx(0, abs=1e-8)
    assert {file: file.read_bytes() for file in shared.iterdir()} == before


def test_nothing_is_generated_where_the_reference_cannot_be_had(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*arguments: object) -> None:
        raise AssertionError("generated in vain")

    monkeypatch.setattr(image_sets, "_generated", unwanted)
    assert "'val'" in refused("images", run, "digits:val")


def test_a_checkpoint_is_scored_in_several_feature_spaces_each_with_its_own_result(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "build_extractor", build_extractor)
    spaces = ("random_convolutions", "mnist_digits")
    several = ("checkpoint", run, "--extractor", ",".join(spaces), "--device", "cpu")
    found = json.loads(call(*several, "--json").stdout)
    assert [one["protocol"]["extractor"] for one in found] == list(spaces)
    for space, one in zip(spaces, found, strict=True):
        (file,) = (run / "evaluations").glob(f"*_{space}_*.json")
        assert json.loads(file.read_text()) == one
    table = call(*several).stdout
    assert "FD (random_convolutions)" in table and "FD (mnist_digits)" in table
    assert "no extractor 'inceptoin'" in refused("checkpoint", run, "--extractor", "mnist_digits,inceptoin")


def test_another_question_does_not_overwrite_an_answer(run: Path) -> None:
    folder = run / "evaluations"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    asked = [["--metrics", "prc"], ["--seed", 5], ["--bootstrap", 50]]
    results = [call("checkpoint", run, "--json", "--device", "cpu", *more) for more in asked]
    assert all(result.exit_code == 0 for result in results), [result.stderr for result in results]
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.items() <= after.items() and len(after) == len(before) + 3
    answers = [json.loads(content) for content in after.values()]
    assert all(json.loads(result.stdout) in answers for result in results)
    assert call("checkpoint", run, "--device", "cpu", "--batch-size", 7).exit_code == 0  # asks for no other number
    assert {path.name for path in folder.iterdir()} == after.keys()


def test_a_finished_run_that_is_asked_for_another_reference_is_scored_again(tmp_path: Path) -> None:
    def train_with(*settings: str) -> list[int]:
        sets = [argument for setting in (*TINY, "evaluation.at_end=true", *settings) for argument in ("--set", setting)]
        out = tmp_path / "run"
        options = ["--set", f"data.root={tmp_path}", "--set", "evaluation.samples=6", "--device", "cpu", "--out", out]
        result = CliRunner().invoke(train.main, [str(argument) for argument in [DEFAULT, *sets, *options]])
        assert result.exit_code == 0, result.output
        results = [json.loads(path.read_text()) for path in (out / "evaluations").iterdir()]
        return sorted(result["protocol"]["reference"]["count"] for result in results)

    assert train_with() == [1797]
    assert train_with("evaluation.reference_samples=9") == [9, 1797]
    assert train_with("evaluation.reference_samples=9") == [9, 1797]


def test_compare_shows_results_of_one_protocol_and_refuses_others(run: Path, tmp_path: Path) -> None:
    (file,) = (run / "evaluations").glob("step_00000006_ema*")
    shown = call("compare", run, file)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count(str(run)) == 2 and "FD (thumbnail)" in shown.stdout
    saved = json.loads(file.read_text())
    saved["protocol"]["generated_count"] = 31
    other = tmp_path / "other.json"
    other.write_text(json.dumps(saved))
    assert "cannot be compared: generated_count: 30 and 31" in refused("compare", run, other)
    assert json.loads(call("compare", file, "--json").stdout)[str(file)]["metrics"] == saved["metrics"]
    del saved["protocol"]["seed"]
    for content, message in (
        (json.dumps(saved), "'seed' is missing"),
        ("{", "not a saved"),
        ("[]", "not a saved"),
    ):
        other.write_text(content)
        assert message in refused("compare", other)
    assert "no results" in refused("compare", tmp_path)
    assert "No such file" in refused("compare", tmp_path / "absent.json")


def test_the_best_goes_by_its_direction_and_survives_a_resume(tmp_path: Path) -> None:
    best = BestCheckpoint(Checkpoints(tmp_path, 1), "precision", higher=True)
    kept = [best.consider(step, {"precision": value}, dict) for step, value in enumerate((0.5, 0.4, float("nan"), 0.6))]
    assert kept == [True, False, False, True]
    resumed = BestCheckpoint(Checkpoints(tmp_path, 1), "precision", higher=True)
    resumed.load_state_dict(best.state_dict())
    assert not resumed.consider(4, {"precision": 0.55}, dict)
    assert read_checkpoint(tmp_path / "best.pt")["step"] == 3
    earlier = best.state_dict()
    assert best.consider(5, {"precision": 0.7}, dict)
    for _ in range(2):
        best.load_state_dict(earlier)  # the steps that led to best.pt are taken back, and what it replaced is gone
    started_again = BestCheckpoint(Checkpoints(tmp_path, 1), "precision", higher=True)
    started_again.load_state_dict(best.state_dict())
    assert (started_again.step, started_again.value) == (5, None)
    killed = BestCheckpoint(Checkpoints(tmp_path, 1), "precision", higher=True)
    killed.load_state_dict(earlier)  # a checkpoint from before best.pt was written, in a process of its own
    assert (killed.step, killed.value) == (5, None)
    assert best.consider(6, {"precision": 0.1}, dict) and read_checkpoint(tmp_path / "best.pt")["step"] == 6
    other = BestCheckpoint(Checkpoints(tmp_path / "other", 1), "frechet_distance")
    other.load_state_dict(earlier)
    assert other.step is None and not BestCheckpoint(Checkpoints(tmp_path, 1), None).consider(1, {}, dict)


def test_scores_by_another_yardstick_are_not_compared(tmp_path: Path) -> None:
    inception, levels = (EvaluationConfig(extractor=name) for name in ("inception", "efficientnet_lite0_levels"))
    assert yardstick(inception) == yardstick(inception.model_copy(update={"every": 7, "metrics": ["fid", "kid"]}))
    assert yardstick(inception) != yardstick(inception.model_copy(update={"samples": 7}))
    best = BestCheckpoint(Checkpoints(tmp_path, 1), "frechet_distance", yardstick=yardstick(inception))
    assert best.consider(1, {"frechet_distance": 20.0}, dict)
    resumed = BestCheckpoint(Checkpoints(tmp_path, 1), "frechet_distance", yardstick=yardstick(levels))
    resumed.load_state_dict(best.state_dict())
    assert [resumed.consider(step, {"frechet_distance": v}, dict) for step, v in ((2, 90.0), (3, 95.0))] == [
        True,
        False,
    ]


def test_classes_are_compared_by_their_names(tmp_path: Path) -> None:
    def images(name: str, classes: list[str]) -> Path:
        labels = np.arange(24) % len(classes)
        np.savez(tmp_path / name, images=pixels(24, 0), labels=labels, class_names=np.array(classes))
        return tmp_path / name

    three, same = (images(name, ["bird", "cat", "dog"]) for name in ("a.npz", "b.npz"))
    two = images("c.npz", ["cat", "dog"])
    assert images_of(three, same, "--metrics", "intra_fid")["metrics"]["intra_frechet_distance_mean"] < 1e-6
    line = refused("images", three, two, "--metrics", "intra_fid", "--device", "cpu")
    assert f"classes: {three}'s label 0 is 'bird', {two}'s is 'cat'; the same ones accepted" in line
    images_of(three, two, "--metrics", "fid")  # where classes do not count


@pytest.mark.parametrize("setting", ["evaluation.label_sampling=reference", "evaluation.metrics=[intra_fid]"])
def test_a_reference_of_other_classes_is_refused_where_classes_count(tmp_path: Path, setting: str) -> None:
    np.savez(tmp_path / "x_train.npz", images=pixels(24, 0), labels=np.arange(24) % 2)
    np.savez(tmp_path / "x_test.npz", images=pixels(24, 1), labels=np.arange(24) % 3)
    source = ["data.source=npz", f"data.path={tmp_path / 'x_train.npz'}", f"data.root={tmp_path}"]
    source.append(f"evaluation.reference_path={tmp_path / 'x_test.npz'}")
    settings = [*TINY, *source, "conditional=true", "evaluation.at_end=true", setting]
    given = [part for one in settings for part in ("--set", one)]
    arguments = [str(DEFAULT), *given, "--out", str(tmp_path / "run"), "--device", "cpu"]
    result = CliRunner().invoke(train.main, arguments)
    assert result.exit_code == 2, result.output
    assert "classes: the generator's label 2 is 'none', the reference's is '2'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_labels_are_drawn_as_the_reference_has_them() -> None:
    from gan.build import build_generator, image_facts
    from gan.config import load_config

    config = load_config(DEFAULT, [*TINY, "conditional=true"])
    facts = image_facts(config)
    given: list[Tensor] = []
    pool = torch.tensor([3, 3, 3, 7])
    sample = scorer.generator_sampler(config, facts.num_classes, build_generator(config, facts), given, pool)
    sample(300)
    assert set(given[0].tolist()) == {3, 7}
    assert (given[0] == 3).double().mean().item() == pytest.approx(0.75, abs=0.1)


def test_the_reference_of_a_file_is_the_one_beside_it_of_that_name(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, count in (("x_train", 24), ("x_test", 20), ("x_valid", 12)):
        np.savez(tmp_path / f"{name}.npz", images=random.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8))
    data = DataConfig(source="npz", path=str(tmp_path / "x_train.npz"), root=str(tmp_path / "data"))
    counts = {split: reference_images(data, split).num_images for split in ("auto", "test", "valid", "train", "all")}
    assert counts == {"auto": 20, "test": 20, "valid": 12, "train": 24, "all": 24}
    (tmp_path / "x_test.npz").unlink()
    with pytest.raises(UserError, match=r"'test' found, and no .*x_test\.npz beside"):
        reference_images(data, "test")


def test_all_of_a_folder_is_all_and_a_split_by_name_is_not_the_configs_path(tmp_path: Path, run: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / name / f"{index}.png")
    path, root = str(tmp_path / "images"), str(tmp_path / "data")
    data = DataConfig(source="image_folder", path=path, root=root, resolution=8, images_per_class=1)
    assert [reference_images(data, split).num_images for split in ("auto", "all")] == [2, 6]
    directory = RunDirectory(tmp_path / "copy")
    directory.path.mkdir()
    tree = parse_yaml((run / "config.yaml").read_text(encoding="utf-8"), "config")
    tree["evaluation"] = {**tree["evaluation"], "reference_path": "other.npz"}
    directory.config.write_text(dump_yaml(tree), encoding="utf-8")
    assert read_config(directory, {"samples": 7}).evaluation.reference_path == "other.npz"
    assert read_config(directory, {"reference": "train"}).evaluation.reference_path is None


def test_a_path_to_measure_against_has_the_split_of_its_source(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for folder, count in (("a", 30), ("b", 50)):
        (tmp_path / folder).mkdir()
        for split in ("train", "test"):
            images = random.integers(0, 255, (count, 28, 28, 1), dtype=np.uint8)
            np.savez(tmp_path / folder / f"mnist_{split}.npz", images=images, labels=np.arange(count) % 10)
    data = DataConfig(source="mnist", path=str(tmp_path / "a" / "mnist_train.npz"), root=str(tmp_path / "data"))
    found = reference_images(data, "auto", str(tmp_path / "b" / "mnist_test.npz"))
    assert (found.split, found.num_images) == ("test", 50)


def test_another_extractor_does_not_have_the_weights_of_the_configs(run: Path) -> None:
    directory = RunDirectory(run)
    tree = parse_yaml(directory.config.read_text(), "config.yaml")
    tree["evaluation"] |= {"extractor": "inception", "weights": "x.pth", "weights_sha256": "0" * 64}
    directory.config.write_text(dump_yaml(tree))
    kept = read_config(directory, {"samples": 20}).evaluation
    assert (kept.weights, kept.weights_sha256) == ("x.pth", "0" * 64)
    other = read_config(directory, {"extractor": "random_convolutions"}).evaluation
    assert (other.weights, other.weights_sha256) == (None, None)
    given = read_config(directory, {"weights": "y.pth"}).evaluation
    assert (given.extractor, given.weights, given.weights_sha256) == ("inception", "y.pth", None)
