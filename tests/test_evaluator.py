"""Extractors, the evaluator's one pass, its cache, and end-to-end parity with torch-fidelity."""

import hashlib
import json
import math
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from PIL import Image
from scipy.spatial.distance import cdist
from torch import nn
from torch.utils.data import Dataset
from torch_fidelity import feature_extractor_clip as clip_module
from torch_fidelity import feature_extractor_inceptionv3 as inception_module
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.metric_kid import kid_features_to_metric

from gan.config import load_config
from gan.errors import NonFiniteError, StorageError, UserError
from gan.metrics import evaluator as evaluator_module
from gan.metrics import reference as reference_module
from gan.metrics.evaluator import METRIC_SEED, Evaluator
from gan.metrics.extractors import efficientnet as efficientnet_module
from gan.metrics.extractors import registered as registered_module
from gan.metrics.extractors.catalogue import EXTRACTORS, build_extractor
from gan.metrics.extractors.efficientnet import EfficientNetLite0Extractor, register
from gan.metrics.extractors.inception import InceptionExtractor
from gan.metrics.extractors.interface import extract, identify
from gan.metrics.extractors.levels import LAST_BLOCKS
from gan.metrics.extractors.resizing import antialiased
from gan.metrics.extractors.weights import file_sha256
from gan.metrics.images import ArraySampler, to_uint8
from gan.metrics.neighbourhood import Score
from gan.metrics.protocol import differences
from gan.metrics.results import Result, format_table, label
from gan.metrics.similarity import discrepancy_influence
from gan.metrics.table import METRICS, Metric, require_metrics
from gan.metrics.transport import transport_influence
from gan.metrics.uncertainty import kernel_influence
from tests import ROOT
from tests.test_metrics import Payload


class Projection(FeatureExtractorBase):
    """A linear extractor, so small that a pass takes milliseconds."""

    def __init__(self, layers=("features", "logits"), seed=0):
        super().__init__("projection", list(layers))
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(16, 3 * 8 * 8, generator=generator) / 2000)
        self.requests = []

    def forward(self, images):
        self.requests.append(len(images))
        features = images.float().flatten(1) @ self.weight.T
        outputs = {"features": features, "logits": features[:, :5] * 3}
        return tuple(outputs[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list():
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "logits" if metric == "isc" else "features"


def pixels(count, seed, channels=3, size=8, low=0, high=256):
    return np.random.RandomState(seed).randint(low, high, (count, size, size, channels), dtype=np.uint8)


def build(extractor=None, **options):
    return Evaluator(extractor or Projection(), progress=False, **{"batch_size": 16, **options})


def build_vouched(name, weights):
    """An extractor with a file of weights that is accepted by its digest."""
    return build_extractor(name, weights=weights, expected_sha256=file_sha256(weights))


def score(evaluator, images, reference):
    return evaluator.evaluate_images(images, reference)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The networks are small: threads would spend their time waiting for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def efficientnet():
    return build_extractor("efficientnet_lite0")


# --------------------------------------------------------------------------------------------------------- the one pass


class Images(Dataset):
    def __init__(self, images):
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def torch_fidelity_scores(real, fake, subset_size=12, **options):
    return torch_fidelity.calculate_metrics(
        input1=Images(fake), input2=Images(real), fid=True, isc=True, kid=True, cuda=False, cache=False, verbose=False,
        save_cpu_ram=True, kid_subset_size=subset_size, batch_size=16, **options,
    )  # fmt: skip


def assert_equal_scores(ours, theirs, rel):
    names = {"frechet_distance": "frechet_inception_distance", "inception_score_mean": "inception_score_mean"}
    names |= {"inception_score_std": "inception_score_std", "kernel_distance_mean": "kernel_inception_distance_mean"}
    if theirs["kernel_inception_distance_std"] > 1e-5:  # not when every subset is the whole set
        names |= {"kernel_distance_std": "kernel_inception_distance_std"}
    for name, their_name in names.items():
        assert ours[name] == pytest.approx(theirs[their_name], rel=rel, abs=1e-7), name


def test_an_identical_set_has_distance_zero_and_every_metric_comes_from_one_pass():
    extractor = Projection()
    evaluator = build(extractor)
    images = pixels(50, 0)
    reference = evaluator.reference(images, name="noise", split="train")
    result = score(evaluator, images, reference)
    assert extractor.requests == [16, 16, 16, 2] * 2  # one pass each, one batch size but for the last
    assert result.metrics["frechet_distance"] == pytest.approx(0, abs=1e-5)
    assert list(result.metrics) == [
        "frechet_distance",
        "inception_score_mean",
        "inception_score_std",
        "kernel_distance_mean",
        "kernel_distance_std",
    ]
    assert result.seconds > 0 and result.images_per_second == pytest.approx(50 / result.seconds)
    protocol = result.protocol
    assert (protocol.generated_count, protocol.kernel_subset_size, protocol.inception_splits) == (50, 50, 10)
    assert protocol.reference.image_shape == (3, 8, 8)
    assert label("fid", protocol) == "FD (projection)"


def test_generated_floats_score_as_the_pixels_they_become():
    images = pixels(40, 22)
    evaluator = build()
    reference = evaluator.reference(pixels(40, 23), name="noise", split="train")
    given = ArraySampler(images)
    with_gradients = torch.ones((), requires_grad=True)
    result = evaluator.evaluate(
        lambda count: (given(count).float() / 127.5 - 1) * with_gradients,
        40,
        reference,
        seed=7,
        weights="ema",
        label_sampling="uniform",
    )
    expected = score(evaluator, images, reference)
    assert result.metrics == expected.metrics
    assert differences(result.protocol, expected.protocol) == ["seed", "weights", "batch_norm", "label_sampling"]


def test_one_metric_has_the_protocol_of_all():
    images = pixels(30, 1)
    results = []
    for metrics in (("fid",), ("fid", "is", "kid")):
        evaluator = build(metrics=metrics)
        results.append(score(evaluator, images, evaluator.reference(images, name="noise", split="train")))
    assert results[0].protocol == results[1].protocol
    assert list(results[0].metrics) == ["frechet_distance"]


def test_batch_size_does_not_change_scores():
    real, fake = pixels(40, 2), pixels(40, 3, high=200)
    scores = []
    for batch_size in (7, 40):
        evaluator = build(batch_size=batch_size)
        scores.append(score(evaluator, fake, evaluator.reference(real, name="noise", split="train")).metrics)
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_one_channel_is_repeated_to_three():
    grey = pixels(20, 4, channels=1)
    evaluator = build()
    one = evaluator.reference(grey, name="grey", split="train")
    three = evaluator.reference(grey.repeat(3, axis=3), name="grey", split="train")
    assert torch.equal(one.mean, three.mean)
    result = evaluator.evaluate(ArraySampler(grey), 20, three, seed=None, weights="images", label_sampling="none")
    assert result.metrics["frechet_distance"] == pytest.approx(0, abs=1e-5)


def test_evaluation_leaves_global_random_state_alone(efficientnet):
    torch.manual_seed(1)
    np.random.seed(1)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    build_extractor("efficientnet_lite0")
    evaluator = build()
    score(evaluator, pixels(20, 5), evaluator.reference(pixels(20, 6), name="noise", split="train"))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1]) and np.random.get_state()[2] == numpy_state[2]


def test_autocast_and_reduced_precision_do_not_reach_the_features():
    extractor, images = Projection(), torch.from_numpy(pixels(8, 7)).permute(0, 3, 1, 2)
    expected = extract(extractor, images)["features"]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = extract(extractor, images)["features"]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(features, expected)


def test_float_images_are_rounded_to_pixels():
    values = torch.tensor([-1.0, -2.0, 1.0, 3.0, 0.0, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5])
    assert to_uint8(values).tolist() == [0, 0, 255, 255, 128, 1, 2]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every.float() / 127.5 - 1), every)
    assert to_uint8(every) is every
    with pytest.raises(NonFiniteError):
        to_uint8(torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="int64"):
        to_uint8(torch.tensor([1]))


# --------------------------------------------------------------------------------------------------------------- errors


def test_user_errors():
    evaluator = build()
    reference = evaluator.reference(pixels(12, 8), name="noise", split="train")
    with pytest.raises(UserError, match="did you mean 'fid'"):
        build(metrics=("fidd",))
    with pytest.raises(UserError, match="layer 'logits'"):
        build(Projection(layers=["features"]))
    with pytest.raises(UserError, match="at least 2 images, got 1"):
        evaluator.reference(pixels(1, 8), name="noise", split="train")
    with pytest.raises(UserError, match="uint8 images"):
        evaluator.reference(pixels(4, 8).astype(np.float32), name="noise", split="train")
    with pytest.raises(UserError, match="at least 2 images, got 1"):
        score(evaluator, pixels(1, 8), reference)
    with pytest.raises(UserError, match="images are 9×9, the reference is 8×8"):
        score(evaluator, pixels(4, 8, size=9), reference)
    with pytest.raises(ValueError, match="asked for 16 images, got 12"):
        evaluator.evaluate(ArraySampler(pixels(12, 8)), 20, reference, seed=0, weights="ema", label_sampling="none")
    with pytest.raises(UserError, match="no extractor 'inceptoin'; did you mean 'inception'"):
        build_extractor("inceptoin")


def test_a_reference_of_another_extractor_or_without_features_is_refused():
    images = pixels(12, 9)
    with pytest.raises(UserError, match="measured with extractor 'projection'"):
        score(build(Projection(seed=1)), images, build().reference(images, name="noise", split="train"))
    without = build(metrics=("fid",)).reference(images, name="noise", split="train")
    assert without.features is None
    with pytest.raises(UserError, match="12 reference features are needed"):
        score(build(), images, without)


def test_non_finite_features_name_the_extractor():
    extractor = Projection()
    with torch.no_grad():
        extractor.weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="'projection' gave non-finite features"):
        build(extractor).reference(pixels(4, 10), name="noise", split="train")


def test_reference_features_are_drawn_when_there_are_too_many(monkeypatch):
    images = pixels(60, 11)
    evaluator = build()
    everything = evaluator.reference(images, name="noise", split="train").features
    monkeypatch.setattr(evaluator_module, "REFERENCE_FEATURES", 25)
    drawn = evaluator.reference(images, name="noise", split="train")
    rows = reference_module.kept_rows(60, 25, evaluator_module.METRIC_SEED)
    assert rows.sum() == 25 and np.flatnonzero(rows).tolist() != list(range(25))
    torch.testing.assert_close(drawn.features, everything[torch.from_numpy(rows)])
    protocol = score(evaluator, images, drawn).protocol
    assert (protocol.kernel_reference_count, protocol.kernel_subset_size) == (25, 25)


# ---------------------------------------------------------------------------------------------------------------- cache


def passes(tmp_path, images, extractor=None, **options):
    """How many batches were extracted for a reference, and the reference."""
    extractor = extractor or Projection()
    reference = build(extractor, **options).reference(images, name="noise", split="train", cache_dir=tmp_path)
    return len(extractor.requests), reference


def test_a_cache_that_others_own_is_used(tmp_path, monkeypatch):
    images = pixels(20, 12)
    assert passes(tmp_path, images)[0] == 2

    def denied(*arguments):
        raise PermissionError("not the owner")

    monkeypatch.setattr(reference_module.os, "utime", denied)
    assert passes(tmp_path, images)[0] == 0


def test_cache_is_used_for_exactly_the_same(tmp_path):
    images = pixels(20, 12)
    assert passes(tmp_path, images)[0] == 2
    count, cached = passes(tmp_path, images)
    assert count == 0
    fresh = passes(tmp_path / "other", images)[1]
    for name in ("mean", "covariance", "features"):
        assert torch.equal(getattr(cached, name), getattr(fresh, name))
    assert score(build(), pixels(20, 13), cached).metrics == score(build(), pixels(20, 13), fresh).metrics
    one_pixel = images.copy()
    one_pixel[3, 2, 1, 0] ^= 1
    assert passes(tmp_path, one_pixel)[0] == 2
    one_weight = Projection()
    with torch.no_grad():
        one_weight.weight[0, 0] += 1e-6
    assert passes(tmp_path, images, one_weight)[0] == 2
    assert passes(tmp_path, images[:19])[0] == 2
    assert passes(tmp_path, images)[0] == 0  # and none of these has replaced it


class Unreadable:
    """Images of which only the shape can be had."""

    def __init__(self, images):
        self.shape, self.dtype, self.ndim = images.shape, images.dtype, images.ndim

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        raise AssertionError("an image was read")

    def __array__(self, *arguments, **options):
        raise AssertionError("the images were read")


def test_features_are_cached_by_whatever_comes_first_and_then_no_image_is_read(tmp_path):
    images, fake = pixels(20, 14), pixels(24, 15)
    named = {"name": "noise", "split": "train", "content": reference_module.content_hash(images), "cache_dir": tmp_path}
    first = build(metrics=("fid",)).reference(images, **named)
    assert first.features is None
    expected = build().reference(images, name="noise", split="train")
    for metrics in (("fid", "is", "kid"), ("fid",), ("prc", "mind")):
        evaluator = build(metrics=metrics)
        cached = evaluator.reference(Unreadable(images), **named)
        assert score(evaluator, fake, cached).metrics == score(evaluator, fake, expected).metrics
    assert cached.identity == expected.identity
    with pytest.raises(AssertionError, match="was read"):  # other weights have other features
        build(Projection(seed=2)).reference(Unreadable(images), **named)


def test_what_was_used_longest_ago_is_cleared_from_a_cache_that_is_too_large(tmp_path, monkeypatch):
    sets = [pixels(20, 60 + index) for index in range(4)]
    passes(tmp_path, sets[0])
    (first,) = tmp_path.iterdir()
    monkeypatch.setattr(reference_module.save_statistics, "__defaults__", (3 * first.stat().st_size,))
    for index, last_used in ((1, 40), (2, 50)):
        passes(tmp_path, sets[index])
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (last_used, last_used))
    os.utime(first, (10, 10))
    assert passes(tmp_path, sets[0])[0] == 0  # which makes it the one used last
    passes(tmp_path, sets[3])
    assert [passes(tmp_path, sets[index])[0] for index in (0, 2, 3)] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 3
    assert passes(tmp_path, sets[1])[0] == 2
    monkeypatch.setattr(reference_module.save_statistics, "__defaults__", (1,))
    passes(tmp_path, pixels(20, 70))
    assert len(list(tmp_path.iterdir())) == 1  # the one just written stays, however large


def test_damaged_cache_is_recomputed(tmp_path):
    images = pixels(20, 15)
    expected = passes(tmp_path, images)[1]
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    random = np.random.RandomState(0)
    damages = [b"", whole[:100], whole[: len(whole) // 2]]
    for position in random.randint(0, len(whole), 40):
        damages.append(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
    for damaged in damages:
        file.write_bytes(damaged)
        reference = passes(tmp_path, images)[1]
        assert torch.equal(reference.covariance, expected.covariance)
        assert torch.equal(reference.features, expected.features)
    file.write_bytes(whole[:100])
    assert passes(tmp_path, images)[0] == 2
    assert passes(tmp_path, images)[0] == 0


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    def refuse(path):
        raise StorageError(f"cannot write {path}: disk full")

    monkeypatch.setattr(reference_module, "atomic_path", refuse)
    with pytest.warns(UserWarning, match="not cached: cannot write"):
        assert passes(tmp_path, pixels(20, 16))[0] == 2


# ----------------------------------------------------------------------------------------------------------- extractors


def relative_difference(first, second):
    return ((first - second).norm() / second.norm()).item()


def test_efficientnet_folding_batch_size_and_name(efficientnet, monkeypatch):
    images = torch.from_numpy(pixels(5, 17, size=32)).permute(0, 3, 1, 2)
    features = extract(efficientnet, images)
    assert {name: tuple(values.shape) for name, values in features.items()} == {
        "features": (5, 1280),
        "logits": (5, 1000),
    }
    monkeypatch.setattr(efficientnet_module, "_fold_efficientnet", lambda network: None)
    unfolded = EfficientNetLite0Extractor()
    for name, values in extract(unfolded, images).items():
        assert relative_difference(features[name], values) < 1e-5
    assert identify(unfolded) == identify(efficientnet)
    assert identify(efficientnet).name == "efficientnet_lite0"
    for name in features:
        singly = torch.cat([extract(efficientnet, image[None])[name] for image in images])
        assert relative_difference(singly, features[name]) < 1e-5
    inputs = (nn.functional.interpolate(images.float(), size=(224, 224), mode="bilinear") - 127) / 128
    with torch.no_grad():
        assert relative_difference(features["logits"], unfolded.network(inputs)) < 1e-5


@pytest.mark.slow
def test_efficientnet_works_inside_torch_fidelity(monkeypatch):
    smaller = replace(METRICS["kid"], options={**METRICS["kid"].options, "kernel_subset_size": 7})
    monkeypatch.setitem(METRICS, "kid", smaller)  # subsets that depend on who is drawn first
    register()
    register()
    real, fake = pixels(12, 18, size=16, high=128), pixels(16, 19, size=16)
    evaluator = build(build_extractor("efficientnet_lite0"))
    ours = score(evaluator, fake, evaluator.reference(real, name="noise", split="train")).metrics
    assert_equal_scores(ours, torch_fidelity_scores(real, fake, 7, feature_extractor="efficientnet_lite0"), rel=1e-3)


def test_efficientnet_weights_of_another_network_are_refused(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not the official efficientnet_lite0 weights"):
        build_extractor("efficientnet_lite0", weights=tmp_path / "other.pth")
    with pytest.raises(UserError, match="weights of another network"):
        build_vouched("efficientnet_lite0", tmp_path / "other.pth")


def test_missing_inception_is_an_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        "gan.metrics.extractors.weights.URL_INCEPTION_V3", (tmp_path / "weights-inception-6726825d.pth").as_uri()
    )
    with pytest.raises(
        UserError, match=r"--weights FILE \(evaluation.weights\), or use --extractor efficientnet_lite0"
    ):
        build_extractor("inception")
    assert {"inception", "efficientnet_lite0", "vgg16", "clip-vit-b-32", "dinov2-vit-s-14"} <= set(EXTRACTORS)


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """Weights of an Inception-v3 with random convolutions and statistics: its features are finite and varied."""

    class Untrained(inception_module.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict, strict=True, assign=False):
            pass

    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(inception_module, "load_state_dict_from_url", lambda url, progress: {})
        network = Untrained("inception-v3-compat", ["2048"])
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.8, 1.2, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3, generator=generator)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_equals_torch_fidelity_end_to_end(random_inception):
    # a brightness of its own for each image, so that logits vary and the inception score is not 1
    brightness = np.linspace(0.2, 1.0, 12)[:, None, None, None]
    real, fake = (
        (pixels(12, seed, size=32) * brightness**power).astype(np.uint8) for seed, power in ((20, 1), (21, 2))
    )
    extractor = build_vouched("inception", random_inception)
    evaluator = build(extractor)
    result = score(evaluator, fake, evaluator.reference(real, name="noise", split="train"))
    theirs = torch_fidelity_scores(real, fake, feature_extractor_weights_path=str(random_inception))
    assert result.metrics["frechet_distance"] > 0.1 and result.metrics["inception_score_mean"] > 1.005
    assert_equal_scores(result.metrics, theirs, rel=1e-3)
    assert result.metrics["frechet_distance"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert result.protocol.extractor == "inception, custom weights"
    assert label("fid", result.protocol) != "FID"


@pytest.mark.slow
def test_inception_refuses_unknown_weights(random_inception, tmp_path):
    with pytest.raises(UserError, match="expected 6726825d…"):
        InceptionExtractor(random_inception)
    state_dict = torch.load(random_inception, weights_only=True)
    del state_dict["fc.bias"]
    torch.save(state_dict, tmp_path / "other.pth")
    with pytest.raises(UserError, match="weights of another network"):
        build_vouched("inception", tmp_path / "other.pth")


def test_the_progress_bar_stays_off_standard_output(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Evaluator(Projection()).reference(pixels(8, 0), name="noise", split="train")
    output, errors = capsys.readouterr()
    assert output == "" and "reference" in errors


# ----------------------------------------------------------------------------------- neighbours, intervals, classes


ALL = ("fid", "is", "kid", "prc", "dc", "fid_infinity")


def test_every_metric_has_an_interval_around_it_from_one_pass():
    extractor = Projection()
    evaluator = build(extractor, metrics=ALL, bootstrap=50)
    result = score(evaluator, pixels(60, 30, high=200), evaluator.reference(pixels(50, 31), name="n", split="s"))
    assert sum(extractor.requests) == 110
    assert set(result.metrics) == {key for metric in ALL for key in METRICS[metric].keys}
    spreads = {"inception_score_std", "kernel_distance_std"}
    assert result.intervals.keys() == result.metrics.keys() - spreads
    for key, (low, high) in result.intervals.items():
        assert low <= result.metrics[key] <= high, key
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    without = build(metrics=("prc", "fid"))
    again = score(without, pixels(60, 30, high=200), without.reference(pixels(50, 31), name="n", split="s"))
    assert again.metrics == {key: result.metrics[key] for key in ("precision", "recall", "frechet_distance")}
    assert again.intervals == {} and again.protocol == result.protocol


@pytest.fixture(scope="module")
def unequal() -> tuple[Result, np.ndarray, np.ndarray]:
    """Scores of 60 images against 50 that are spread more widely, and the features of either."""
    evaluator = build(metrics=("kid", "prc", "dc", "mind", "cmmd", "vendi", "authenticity", "fid_infinity"))
    fake, real = pixels(60, 50, low=90, high=256), pixels(50, 51)
    result = score(evaluator, fake, evaluator.reference(real, name="n", split="s"))
    features = (
        extract(Projection(), torch.from_numpy(images).permute(0, 3, 1, 2))["features"].detach().double().numpy()
        for images in (fake, real)
    )
    return result, *features


def by_hand(fake: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Scores of 60 features against 50, each by its definition."""
    between, among, other = cdist(fake, real), cdist(real, real), cdist(fake, fake)
    real_radii, fake_radii, balls = (np.sort(d, axis=1)[:, k] for d, k in ((among, 3), (other, 3), (among, 5)))
    nearest = between.argmin(axis=1)
    unit_fake, unit_real = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (fake, real))
    pairs = ((unit_fake, unit_fake), (unit_real, unit_real), (unit_fake, unit_real))
    kernels = [np.mean([math.exp(-((x - y) @ (x - y)) / 200) for x in a for y in b]) for a, b in pairs]
    spectrum = np.linalg.eigvalsh(unit_fake @ unit_fake.T / 60)
    spectrum = spectrum[spectrum > 1e-12]

    def frechet(rows: np.ndarray) -> float:
        first, second = np.cov(rows.T), np.cov(real.T)
        root = scipy.linalg.sqrtm(first @ second).real
        return ((rows.mean(0) - real.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)

    random = np.random.Generator(np.random.PCG64(METRIC_SEED))
    sizes = np.unique(np.linspace(6, 60, 15).astype(int))
    distances = [frechet(fake[np.sort(random.choice(60, size, replace=False))]) for size in sizes]
    slope, limit = np.polyfit(1 / sizes, distances, 1)
    kernel = kid_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), kid_subsets=100, kid_subset_size=50, verbose=False
    )
    drawn = torch.Generator().manual_seed(METRIC_SEED)
    kept = fake[torch.randperm(60, generator=drawn)[:50].numpy()]
    directions = torch.randn(1000, 16, generator=drawn).double().numpy()
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    gaps = [np.mean((np.sort(kept @ u) - np.sort(real @ u)) ** 2) for u in directions]
    return {
        "kernel_distance_mean": kernel["kernel_inception_distance_mean"],
        "kernel_distance_std": kernel["kernel_inception_distance_std"],
        "precision": (between <= real_radii).any(axis=1).mean(),
        "recall": (between <= fake_radii[:, None]).any(axis=0).mean(),
        "density": (between < balls).sum() / (5 * 60),
        "coverage": (between < balls).any(axis=0).mean(),
        "monge_inception_distance": 3 * 16 * np.mean(gaps),
        "clip_discrepancy": 1000 * (kernels[0] + kernels[1] - 2 * kernels[2]),
        "vendi_score": math.exp(-(spectrum * np.log(spectrum)).sum()),
        "authenticity": (between.min(axis=1) > np.sort(among, axis=1)[nearest, 1]).mean(),
        "frechet_distance_infinity": limit,
        "frechet_distance_slope": slope,
    }


def test_every_metric_of_unequal_sets_is_its_definition(unequal: tuple[Result, np.ndarray, np.ndarray]) -> None:
    result, fake, real = unequal
    expected = by_hand(fake, real)
    assert result.metrics == pytest.approx(expected, rel=1e-3, abs=1e-7)
    shares = [expected[key] for key in ("precision", "recall", "density", "coverage", "authenticity")]
    assert len({*shares}) == 5 and not {0, 1} & {*shares}


def test_the_interval_of_the_kernel_distance_holds_the_noise_of_its_subsets(
    unequal: tuple[Result, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fake, real = unequal
    few = replace(METRICS["kid"], options={"kernel_subsets": 4, "kernel_subset_size": 3})
    monkeypatch.setitem(METRICS, "kid", few)
    evaluator = build(metrics=("kid",), bootstrap=4000)
    reference = evaluator.reference(pixels(50, 51), name="n", split="s")
    result = score(evaluator, pixels(60, 50, low=90, high=256), reference)
    low, high = result.intervals["kernel_distance_mean"]
    influence = kernel_influence(torch.from_numpy(fake), torch.from_numpy(real), METRIC_SEED).numpy()
    noise = result.metrics["kernel_distance_std"] / 4**0.5
    expected = 1.96 * math.sqrt(influence.var() / 60 + noise**2)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.05)
    assert expected > 1.2 * 1.96 * influence.std() / math.sqrt(60)  # the noise shows


def test_intervals_of_unequal_sets_are_of_the_generated_images(unequal: tuple[Result, np.ndarray, np.ndarray]) -> None:
    fake, real = (torch.from_numpy(features) for features in unequal[1:])
    evaluator = build(metrics=("mind", "cmmd"), bootstrap=4000)
    reference = evaluator.reference(pixels(50, 51), name="n", split="s")
    intervals = score(evaluator, pixels(60, 50, low=90, high=256), reference).intervals
    influences = {
        "monge_inception_distance": transport_influence(fake, real, 1000, METRIC_SEED),
        "clip_discrepancy": discrepancy_influence(fake, real),
    }
    for key, influence in influences.items():
        half = 1.96 * influence.std(correction=0).item() / math.sqrt(60)
        assert (intervals[key][1] - intervals[key][0]) / 2 == pytest.approx(half, rel=0.05), key


def test_neighbourhoods_see_a_seeded_draw_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(evaluator_module, "NEIGHBOUR_FEATURES", 20)
    evaluator = build(metrics=("prc",))
    result = score(evaluator, pixels(60, 32), evaluator.reference(pixels(50, 33), name="n", split="s"))
    assert (result.protocol.neighbour_count, result.protocol.neighbour_reference_count) == (20, 20)
    with pytest.raises(UserError, match="3 nearest neighbours need more than 3 generated images"):
        score(evaluator, pixels(3, 32), evaluator.reference(pixels(50, 33), name="n", split="s"))
    few = build(metrics=("fid_infinity",))
    with pytest.raises(UserError, match="fid_infinity needs at least 20 images, got 12"):
        score(few, pixels(12, 32), few.reference(pixels(50, 33), name="n", split="s"))


def test_intra_fid_is_the_distance_within_each_class():
    evaluator = build(metrics=("intra_fid",))
    real, fake = pixels(40, 34), pixels(30, 35, high=200)
    real_labels, fake_labels = np.arange(40) % 2, np.arange(30) % 2
    labelled = {"name": "n", "split": "s", "labels": real_labels, "class_names": ("even", "odd")}
    reference = evaluator.reference(real, **labelled)
    result = evaluator.evaluate_images(fake, reference, fake_labels)
    plain = build(metrics=("fid",))
    expected = {
        name: score(plain, fake[index::2], plain.reference(real[index::2], name="n", split="s"))
        for index, name in enumerate(("even", "odd"))
    }
    for name, single in expected.items():
        assert result.classes[name] == pytest.approx(single.metrics["frechet_distance"], rel=1e-6)
    assert result.metrics["intra_frechet_distance_mean"] == pytest.approx(np.mean(list(result.classes.values())))
    with pytest.raises(UserError, match="class 'odd' has 0 generated images"):
        evaluator.evaluate_images(fake, reference, np.zeros(30, dtype=np.int64))
    with pytest.raises(UserError, match="the generated images have none"):
        evaluator.evaluate_images(fake, reference)


# ------------------------------------------------------------------------------------------- precision and compilation


def test_lower_precision_is_stamped_and_cached_apart(tmp_path):
    images = pixels(20, 36)
    results = {}
    for dtype in ("float32", "bfloat16"):
        evaluator = build(dtype=dtype)
        reference = evaluator.reference(images, name="noise", split="train", cache_dir=tmp_path)
        results[dtype] = score(evaluator, pixels(20, 37, high=200), reference)
    full, half = results.values()
    assert differences(full.protocol, half.protocol) == ["dtype"]
    assert full.metrics["frechet_distance"] != half.metrics["frechet_distance"]
    assert len(list(tmp_path.iterdir())) == 2
    assert label("fid", half.protocol) == "FD (projection, bfloat16)"
    with pytest.raises(UserError, match="no dtype 'float8'"):
        build(dtype="float8")


def compiled_as(monkeypatch, change):
    """Stand in for the compiler: the compiled extractor is `change` of the plain one."""
    monkeypatch.setattr(torch, "compile", lambda module, **options: change(module))


def test_a_compiled_extractor_sees_one_batch_size_and_gives_the_same_scores(monkeypatch):
    compiled_as(monkeypatch, lambda module: module)
    extractor, images = Projection(), pixels(20, 38)
    evaluator = build(extractor, compiled=True)
    reference = evaluator.reference(images, name="n", split="s")
    assert extractor.requests == [16, 16, 16, 16]  # checked once, then two batches, the second filled up
    plain = build()
    expected = plain.reference(images, name="n", split="s")
    torch.testing.assert_close(reference.features, expected.features)
    assert reference.features.shape == (20, 16) and reference.extractor == expected.extractor


def fails(module):
    def raising(images):
        raise RuntimeError("no compiler")

    return raising


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (fails, "no compiler"),
        (lambda module: lambda images: tuple(x * 1.001 for x in module(images)), "moved by 1.0e-03"),
    ],
)
def test_a_compiled_extractor_that_is_not_the_same_is_not_used(monkeypatch, change, reason):
    compiled_as(monkeypatch, change)
    evaluator = build(compiled=True)
    with pytest.warns(UserWarning, match=reason):
        reference = evaluator.reference(pixels(20, 39), name="n", split="s")
    plain = build().reference(pixels(20, 39), name="n", split="s")
    assert torch.equal(reference.mean, plain.mean)


# ------------------------------------------------------------------------------------------------- resizing, and levels


@pytest.mark.parametrize(("size", "to"), [((32, 32), 224), ((70, 61), 28), ((28, 28), 28)])
def test_antialiased_resizing_is_pillows_of_floats_as_clean_fid_does(size, to):
    images = np.random.RandomState(40).randint(0, 256, (2, *size, 3), dtype=np.uint8)
    ours = antialiased(torch.from_numpy(images).permute(0, 3, 1, 2), (to, to)).permute(0, 2, 3, 1).numpy()
    for image, resized in zip(images, ours, strict=True):
        for channel in range(3):
            theirs = Image.fromarray(image[..., channel].astype(np.float32), mode="F").resize((to, to), Image.BICUBIC)
            np.testing.assert_allclose(resized[..., channel], np.asarray(theirs).clip(0, 255), rtol=0, atol=2e-3)


def test_antialiased_extractors_are_stamped_and_read_what_they_would_of_resized_images(efficientnet, tmp_path):
    images = torch.from_numpy(pixels(2, 41, size=32)).permute(0, 3, 1, 2)
    resized = antialiased(images, (224, 224))
    other = build_extractor("efficientnet_lite0", resize="antialiased")
    torch.testing.assert_close(extract(other, images)["features"], efficientnet(resized)[0])
    assert not torch.allclose(extract(other, images)["features"], efficientnet(images)[0], atol=1e-2)
    assert replace(identify(other), resize=identify(efficientnet).resize) == identify(efficientnet)
    assert identify(other).resize == "bicubic 224, antialiased, as clean-fid"
    torch.manual_seed(0)
    torch.save(tiny_clip(), tmp_path / "clip.pth")
    plain, clip = (
        build_extractor(
            "clip-vit-b-32",
            weights=tmp_path / "clip.pth",
            expected_sha256=file_sha256(tmp_path / "clip.pth"),
            resize=resize,
        )
        for resize in ("extractor", "antialiased")
    )
    small = antialiased(images, (8, 8)).round().to(torch.uint8)
    of_rounding, of_resizing = (
        relative_difference(extract(clip, images)["clip"], extract(plain, read)["clip"]) for read in (small, images)
    )
    assert of_rounding < 0.1 * of_resizing
    with pytest.raises(UserError, match=r"^resize: antialiased found; extractor 'mnist_digits'"):
        build_extractor("mnist_digits", resize="antialiased")


def test_levels_are_means_and_deviations_over_positions_of_the_network_that_knows_objects(efficientnet):
    images = torch.from_numpy(pixels(3, 42, size=32)).permute(0, 3, 1, 2)
    seen = {}
    for index in LAST_BLOCKS:
        efficientnet.network._blocks[index].register_forward_hook(
            lambda module, inputs, output, index=index: seen.__setitem__(index, output.clone())
        )
    efficientnet(images)
    expected = torch.cat(
        [part for index in LAST_BLOCKS for part in (seen[index].mean((2, 3)), seen[index].std((2, 3), correction=0))], 1
    )
    levels = build_extractor("efficientnet_lite0_levels")
    torch.testing.assert_close(extract(levels, images)["levels"], expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (3, 352)
    assert identify(levels).weights == identify(efficientnet).weights
    assert identify(levels).name == "efficientnet_lite0_levels"
    with pytest.raises(UserError, match="is: needs the logits of classes, which extractor 'efficientnet_lite0_levels'"):
        build(levels)


def test_the_random_network_is_the_same_every_time_and_reads_any_size():
    first, again = (build_extractor("random_convolutions") for _ in range(2))
    assert identify(first) == identify(again) and identify(first).resize == "none"
    for size in (8, 32):
        images = torch.from_numpy(pixels(4, 43, size=size)).permute(0, 3, 1, 2)
        features = extract(first, images)["levels"]
        assert features.shape == (4, 576) and torch.equal(features, extract(again, images)["levels"])
    with pytest.raises(UserError, match="random_convolutions: weights given"):
        build_extractor("random_convolutions", expected_sha256="0" * 64)


def test_the_random_network_is_three_convolutions_written_out() -> None:
    images = torch.from_numpy(pixels(4, 44, size=9)).permute(0, 3, 1, 2)
    random = np.random.RandomState(2020)
    values, expected = (images.double() - 127) / 128, []
    for inputs, outputs, stride in ((3, 64, 1), (64, 96, 2), (96, 128, 2)):
        filters = torch.from_numpy(random.standard_normal((outputs, inputs, 3, 3)) * math.sqrt(2 / (9 * inputs)))
        values = nn.functional.conv2d(nn.functional.pad(values, (1, 1, 1, 1)), filters, stride=stride).clamp_min(0)
        positions = values.flatten(2).numpy()
        expected += [positions.mean(axis=2), positions.std(axis=2)]
    found = extract(build_extractor("random_convolutions"), images)["levels"].numpy()
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------- torch-fidelity's extractors


@pytest.mark.parametrize("name", ["vgg16", "clip-vit-b-32", "dinov2-vit-s-14"])
def test_nothing_in_a_file_for_a_registered_extractor_is_executed(name, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": Payload(tmp_path / "executed")}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="SHA-256 is"):
        build_extractor(name, weights=path)
    with pytest.raises(UserError, match="not a file of plain weights"):
        build_extractor(name, weights=path, expected_sha256=digest)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="weights of another network") as error:
        build_vouched(name, path)
    assert not (tmp_path / "executed").exists()
    assert "\n" not in str(error.value)


def test_dinov2_is_not_downloaded_and_has_no_class_score(tmp_path):
    with pytest.raises(UserError, match="dinov2-vit-s-14: no weights given; accepted: --weights FILE"):
        build_extractor("dinov2-vit-s-14")
    path = tmp_path / "tiny.pth"
    torch.save(tiny_clip(), path)
    clip = build_vouched("clip-vit-b-32", path)
    assert extract(clip, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))["clip"].shape == (2, 5)
    assert identify(clip).name == "clip-vit-b-32, custom weights"
    with pytest.raises(UserError, match="is: needs the logits of classes, which extractor 'clip-vit-b-32"):
        build(clip)


def tiny_clip():
    """The state dict of a CLIP with one block, 64 wide, of 8 × 8 images in patches of 4."""
    visual = clip_module.CLIPVisual(5, 8, 1, 64, 4).state_dict()
    return {name: values.normal_() * 0.1 for name, values in visual.items()} | {"text_projection": torch.zeros(3, 5)}


def test_dinov2_equals_its_own_equations(tmp_path, monkeypatch):
    monkeypatch.setitem(registered_module.DINOV2_SIZES, "dinov2-vit-s-14", (24, 2, 3))
    generator = torch.Generator().manual_seed(0)
    shapes = {"cls_token": (1, 1, 24), "pos_embed": (1, 1 + 37**2, 24), "mask_token": (1, 24)}
    shapes |= {"patch_embed.proj.weight": (24, 3, 14, 14), "patch_embed.proj.bias": (24,)}
    shapes |= {"norm.weight": (24,), "norm.bias": (24,)}
    layers = {"norm1": (24,), "norm2": (24,), "attn.qkv": (72, 24), "attn.proj": (24, 24), "mlp.fc1": (96, 24)}
    for block in ("blocks.0", "blocks.1"):
        for name, shape in (layers | {"mlp.fc2": (24, 96)}).items():
            shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
        shapes |= {f"{block}.ls1.gamma": (24,), f"{block}.ls2.gamma": (24,)}
    weights = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    path = tmp_path / "tiny.pth"
    torch.save(weights, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    extractor = build_extractor("dinov2-vit-s-14", weights=path, expected_sha256=digest)
    images = torch.randint(0, 256, (2, 3, 224, 224), generator=generator, dtype=torch.uint8)  # no resizing needed
    with torch.no_grad():
        expected = dinov2_by_hand(weights, images)
    assert relative_difference(extract(extractor, images)["dinov2"], expected) < 1e-5


def test_dinov2_equals_torch_fidelitys_with_the_release_of_its_authors(tmp_path, monkeypatch):
    """Needs their code, PyPI's dinov2, which torch-fidelity would download from its repository."""
    release = pytest.importorskip("dinov2.models.vision_transformer")
    torch.manual_seed(0)
    settings = {"patch_size": 14, "img_size": 518, "init_values": 1.0, "ffn_layer": "mlp", "block_chunks": 0}
    model = release.vit_small(**settings).eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            values.copy_(torch.randn_like(values) * 0.05 + (1 if "norm" in name and "weight" in name else 0))
    monkeypatch.setattr(torch.hub, "load", lambda repository, name: model)
    theirs = FeatureExtractorDinoV2("dinov2-vit-s-14", ["dinov2"])
    torch.save(model.state_dict(), tmp_path / "release.pth")
    ours = build_vouched("dinov2-vit-s-14", tmp_path / "release.pth")
    images = torch.from_numpy(pixels(2, 44, size=32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        (expected,) = theirs(images)
    assert relative_difference(extract(ours, images)["dinov2"], expected) < 1e-5


def dinov2_by_hand(weights, images):
    def norm(x, name):
        return nn.functional.layer_norm(x, (24,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (images / 255 - mean) / deviation
    x = nn.functional.conv2d(x, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=14)
    x = torch.cat([weights["cls_token"].expand(2, -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    grid = weights["pos_embed"][:, 1:].reshape(1, 37, 37, 24).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    x = x + torch.cat([weights["pos_embed"][:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, 24)], dim=1)
    for block in ("blocks.0", "blocks.1"):
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").reshape(2, 257, 3, 3, 8).permute(2, 0, 3, 1, 4)
        attention = (qkv[0] @ qkv[1].transpose(-2, -1) / 8**0.5).softmax(dim=-1)
        mixed = (attention @ qkv[2]).transpose(1, 2).reshape(2, 257, 24)
        x = x + weights[f"{block}.ls1.gamma"] * linear(mixed, f"{block}.attn.proj")
        hidden = nn.functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + weights[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "norm")[:, 0]


def test_a_new_metric_is_its_formula_and_one_record(monkeypatch):
    """Config, evaluator, intervals, result, table and protocol take it from the table."""

    def mean_gap(evidence):
        gap = evidence.fake - evidence.real.mean(dim=0)
        per_image = gap.norm(dim=1)
        return [Score(per_image.mean().item(), per_image - per_image.mean())]

    needs = ("features", "reference features")
    record = Metric("gap", "mean distance to the real mean", ("mean_gap",), "gap", mean_gap, needs=needs)
    with pytest.raises(UserError, match=r"evaluation\.metrics: no metric 'gap'"):
        require_metrics(["gap"])
    monkeypatch.setitem(METRICS, "gap", record)
    config = load_config(ROOT / "configs" / "digits" / "dcgan_cr.yaml", ["evaluation.metrics=[gap]"])
    require_metrics(config.evaluation.metrics)
    fake, real = pixels(40, seed=1), pixels(30, seed=2)
    evaluator = build(metrics=("gap", "fid"), bootstrap=200)
    result = score(evaluator, fake, evaluator.reference(real, name="noise", split="train"))
    features = [evaluator.extractor(torch.from_numpy(one).permute(0, 3, 1, 2))[0] for one in (fake, real)]
    expected = (features[0] - features[1].mean(0)).norm(dim=1).mean().item()
    assert result.metrics["mean_gap"] == pytest.approx(expected, rel=1e-5)
    low, high = result.intervals["mean_gap"]
    assert low < expected < high
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert "gap (" in format_table({"run": result})


def test_a_saved_result_outlives_a_field_that_the_protocol_gains():
    values = json.loads((ROOT / "tests" / "result.json").read_text())
    protocol = Result.from_dict(values).protocol
    del values["protocol"]["versions"]  # a field with a default, as every later one has
    assert Result.from_dict(values).protocol == protocol
    del values["protocol"]["extractor"]
    with pytest.raises(UserError, match="protocol field 'extractor' is missing"):
        Result.from_dict(values)
