"""Formulas against torch-fidelity, SciPy and closed forms; accumulators against NumPy; the protocol; the weights."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from gan.errors import UserError
from gan.metrics import neighbourhood as neighbourhood_module
from gan.metrics.accumulators import FeatureBank, GaussianStatistics, SplitProbabilities
from gan.metrics.extractors.weights import OfficialWeights, load_state_dict, verify, weights_hash
from gan.metrics.formulas import (
    FrechetTarget,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from gan.metrics.neighbourhood import authenticity, density_and_coverage, precision_and_recall
from gan.metrics.protocol import Protocol, ReferenceIdentity, differences, require_same, version_differences
from gan.metrics.results import Result, format_table, label, remarks
from gan.metrics.similarity import clip_discrepancy, vendi_score
from gan.metrics.transport import monge_inception_distance


def features(count, dimensions, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64) @ mixing + shift


def gaussian(values):
    statistics = GaussianStatistics()
    statistics.update(values)
    return statistics.result()


def torch_fidelity_fid(first, second):
    statistics = [fid_features_to_statistics(values) for values in (first, second)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


# ---------------------------------------------------------------------------------------------------- Fréchet distance


@pytest.mark.parametrize("count", [400, 40], ids=["full rank", "fewer images than dimensions"])
def test_frechet_distance_equals_torch_fidelity(count):
    first, second = features(count, 64, 0), features(count, 64, 1, shift=0.3)
    ours = frechet_distance(*gaussian(first), *gaussian(second))
    assert ours.item() == pytest.approx(torch_fidelity_fid(first, second), rel=1e-6)


def test_frechet_distance_equals_sqrtm():
    (mean_1, covariance_1), (mean_2, covariance_2) = gaussian(features(300, 24, 2)), gaussian(features(300, 24, 3, 1.0))
    root = scipy.linalg.sqrtm(covariance_1.numpy() @ covariance_2.numpy()).real
    expected = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace() - 2 * np.trace(root)
    assert frechet_distance(mean_1, covariance_1, mean_2, covariance_2).item() == pytest.approx(
        expected.item(), rel=1e-9
    )


def test_frechet_distance_closed_forms():
    mean, covariance = gaussian(features(200, 16, 4))
    assert frechet_distance(mean, covariance, mean, covariance).item() == pytest.approx(0, abs=1e-9)
    shift = torch.arange(16.0, dtype=torch.float64)
    shifted = frechet_distance(mean, covariance, mean + shift, covariance)
    assert shifted.item() == pytest.approx(shift.square().sum().item(), rel=1e-12)
    # commuting covariances: Σ (√a − √b)²
    a, b = torch.rand(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    commuting = frechet_distance(mean, a.diag(), mean, b.diag())
    assert commuting.item() == pytest.approx((a.sqrt() - b.sqrt()).square().sum().item(), rel=1e-12)


def test_frechet_distance_of_singular_covariances():
    a = torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)
    b = torch.tensor([1.0, 0.0, 9.0], dtype=torch.float64)
    rotation = torch.linalg.qr(features(3, 3, 5))[0]
    mean = torch.zeros(3)
    distance = frechet_distance(mean, rotation @ a.diag() @ rotation.T, mean, rotation @ b.diag() @ rotation.T)
    assert distance.item() == pytest.approx(1 + 1 + 9, rel=1e-7)
    assert distance.item() >= 0
    zero = torch.zeros(3, 3)
    assert frechet_distance(mean, zero, mean, zero).item() == 0


def test_frechet_distance_gradient_equals_differences():
    target = FrechetTarget(*gaussian(features(100, 6, 40)))
    mean, covariance = gaussian(features(100, 6, 41))
    gradient = target.gradient(covariance)
    direction = features(6, 6, 42)
    direction = (direction + direction.T) * 1e-6
    up, down = (target.distance(mean, covariance + sign * direction).item() for sign in (1, -1))
    assert (up - down) / 2 == pytest.approx((gradient * direction).sum().item(), rel=1e-5)


def test_frechet_distance_is_symmetric_and_refuses_other_dimensions():
    first, second = gaussian(features(100, 8, 6)), gaussian(features(100, 8, 7))
    assert frechet_distance(*first, *second).item() == pytest.approx(
        frechet_distance(*second, *first).item(), rel=1e-10
    )
    with pytest.raises(ValueError, match="different dimensions"):
        frechet_distance(*first, *gaussian(features(100, 9, 6)))


# -------------------------------------------------------------------------------- inception score and kernel distance


def score_of_logits(logits, splits=10):
    sums = SplitProbabilities(len(logits), splits)
    sums.update(logits)
    return inception_score(sums)


@pytest.mark.parametrize(("count", "splits"), [(203, 10), (64, 1)])
def test_inception_score_equals_torch_fidelity(count, splits):
    logits = (features(count, 12, 8) * 2).float()
    expected = isc_features_to_metric(logits, splits=splits)
    mean, deviation = score_of_logits(logits, splits=splits)
    assert mean.item() == pytest.approx(expected["inception_score_mean"], rel=1e-9)
    assert deviation.item() == pytest.approx(expected["inception_score_std"], rel=1e-9, abs=1e-12)


def test_inception_score_bounds():
    certain = torch.eye(10).repeat(10, 1) * 2000  # also: 0 · log 0 = 0
    assert score_of_logits(certain, splits=1)[0].item() == pytest.approx(10)
    assert score_of_logits(torch.zeros(20, 10), splits=2)[0].item() == pytest.approx(1)
    with pytest.raises(ValueError, match="9 images cannot be cut into 10 splits"):
        score_of_logits(torch.zeros(9, 10))


@pytest.mark.parametrize(("subsets", "size"), [(7, 50), (3, 120)])
def test_kernel_distance_equals_torch_fidelity(subsets, size):
    first, second = features(150, 32, 9), features(120, 32, 10, shift=0.5)
    expected = kid_features_to_metric(first, second, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    mean, deviation = kernel_distance(first, second, subsets=subsets, subset_size=size)
    assert mean.item() == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
    assert deviation.item() == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-9)


def test_kernel_distance_of_one_distribution_is_about_zero():
    values = features(600, 8, 11)
    mean, deviation = kernel_distance(values[:300], values[300:], subsets=20, subset_size=100)
    assert abs(mean.item()) < 2 * deviation.item()
    with pytest.raises(ValueError, match="subsets of 1000"):
        kernel_distance(values, values)


def test_formulas_leave_global_random_state_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    values = features(60, 4, 12)
    score_of_logits(values)
    kernel_distance(values, values, subsets=2, subset_size=30)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_inception_score_of_a_stream_equals_the_score_of_all():
    logits = features(103, 12, 30).float()
    sums = SplitProbabilities(103, splits=4)
    for batch in logits.split(17):
        sums.update(batch)
    for ours, expected in zip(inception_score(sums), score_of_logits(logits, splits=4), strict=True):
        assert ours.item() == pytest.approx(expected.item(), rel=1e-12)
    with pytest.raises(ValueError, match="0 of 103 images were seen"):
        inception_score(SplitProbabilities(103))


# --------------------------------------------------------------------------------------------------- nearest neighbours


def manifolds(fake_count, real_count, dimensions, seed, copies=0):
    """Overlapping sets of float32 features, with copies of real ones among the generated."""
    fake, real = features(fake_count, dimensions, seed).float() * 0.8, features(real_count, dimensions, seed).float()
    fake[:copies] = real[len(real) - copies :]
    return fake, real


@pytest.mark.parametrize(
    ("fake_count", "real_count", "dimensions"), [(300, 200, 4), (210, 330, 64), (60, 1500, 700), (30, 20, 2)]
)
def test_precision_and_recall_equal_torch_fidelity_exactly(fake_count, real_count, dimensions):
    fake, real = manifolds(fake_count, real_count, dimensions, 31, copies=5)
    expected = prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    precision, recall = precision_and_recall(fake, real)
    assert (precision.value, recall.value) == (expected["precision"], expected["recall"])


def test_density_and_coverage_equal_their_definitions():
    fake, real = manifolds(70, 90, 3, 32)
    density, coverage = density_and_coverage(fake, real, neighbours=5)
    distances = np.linalg.norm(fake.double().numpy()[:, None] - real.double().numpy()[None], axis=2)
    among = np.linalg.norm(real.double().numpy()[:, None] - real.double().numpy()[None], axis=2)
    radii = np.sort(among, axis=1)[:, 5]
    assert density.value == pytest.approx((distances < radii).sum() / (5 * 70))
    assert coverage.value == pytest.approx((distances.min(axis=0) < radii).mean())


@pytest.mark.parametrize("score", [precision_and_recall, density_and_coverage])
def test_blocks_do_not_change_neighbourhoods(score, monkeypatch):
    fake, real = manifolds(70, 90, 3, 33)
    expected = score(fake, real)
    monkeypatch.setattr(neighbourhood_module, "ROWS", 13)
    monkeypatch.setattr(neighbourhood_module, "COLUMNS", 17)
    for blocked, whole in zip(score(fake, real), expected, strict=True):
        assert blocked.value == pytest.approx(whole.value)
        torch.testing.assert_close(blocked.influence, whole.influence)
    with pytest.raises(ValueError, match="have no"):
        score(fake[:3], real[:3])
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        score(fake, real[:, :2])


def test_neighbourhoods_of_one_distribution_and_of_strangers():
    generator = torch.Generator().manual_seed(35)
    real, same = (torch.randn(400, 2, generator=generator) for _ in range(2))
    far = torch.randn(400, 2, generator=generator) + 100
    assert density_and_coverage(same, real)[0].value == pytest.approx(1, abs=0.15)
    assert all(score.value > 0.85 for score in precision_and_recall(same, real))
    strangers = (*precision_and_recall(far, real), *density_and_coverage(far, real))
    assert [score.value for score in strangers] == [0, 0, 0, 0]


def test_authenticity_equals_its_definition_and_finds_planted_copies():
    generator = torch.Generator().manual_seed(36)
    real, fake = (torch.randn(count, 5, generator=generator, dtype=torch.float64) for count in (300, 200))
    fake[:80] = real[:80] + 1e-3
    between, among = torch.cdist(fake, real), torch.cdist(real, real).fill_diagonal_(torch.inf)
    nearest = between.min(dim=1)
    expected = (nearest.values > among.min(dim=1).values[nearest.indices]).double()
    found = authenticity(fake, real)
    assert found.value == pytest.approx(expected.mean().item(), abs=1e-12)
    assert expected[:80].sum() == 0 and expected[80:].sum() > 30
    torch.testing.assert_close(found.influence, expected - expected.mean())


# ------------------------------------------------------------------------------------------------ transport, similarity


@pytest.mark.parametrize(("fake_count", "real_count"), [(90, 90), (120, 90), (90, 120)])
def test_mind_equals_its_definition_with_the_draws_of_torch_fidelity(fake_count, real_count):
    """As torch-fidelity's main branch has it after 0.4.0: rows of the larger set first, then directions, in float32."""
    fake, real = features(fake_count, 7, 1).float(), features(real_count, 7, 2, shift=0.5).float()
    random = torch.Generator().manual_seed(11)
    kept = [values.numpy() for values in (fake, real)]
    if fake_count != real_count:
        longer = int(real_count > fake_count)
        kept[longer] = kept[longer][torch.randperm(len(kept[longer]), generator=random)[:90].numpy()]
    total = 0.0
    for direction in torch.randn(250, 7, generator=random).double().numpy():
        unit = direction / np.sqrt((direction**2).sum())
        total += np.mean((np.sort(kept[0] @ unit) - np.sort(kept[1] @ unit)) ** 2)
    assert monge_inception_distance(fake, real, 250, 11) == pytest.approx(3 * 7 * total / 250, rel=1e-5)


def test_mind_of_a_shift_is_three_times_its_square_and_sees_what_two_moments_do_not():
    generator = torch.Generator().manual_seed(12)
    real = torch.randn(2000, 4, generator=generator)
    shift = torch.tensor([0.3, -0.2, 0.1, 0.4])
    expected = 3 * shift.square().sum().item()
    assert monge_inception_distance(real + shift, real, 20_000, 0) == pytest.approx(expected, rel=0.02)
    assert monge_inception_distance(real, real, 10, 0) == 0
    signs = real.sign()  # the moments of a normal distribution, another distribution
    assert FrechetTarget(*gaussian(real)).distance(*gaussian(signs)).item() < 0.02
    other = torch.randn(2000, 4, generator=generator)
    assert monge_inception_distance(signs, real, 100, 0) > 5 * monge_inception_distance(other, real, 100, 0)


def test_cmmd_is_the_kernel_written_out_and_0_for_equal_sets():
    x, y = features(40, 6, 3).numpy(), features(50, 6, 4, shift=1.0).numpy()

    def mean(first, second):
        values = [
            np.exp(-((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2).sum() / 200) for a in first for b in second
        ]
        return np.mean(values)

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert clip_discrepancy(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-9)
    assert clip_discrepancy(torch.from_numpy(x), torch.from_numpy(x[::-1].copy())) == pytest.approx(0, abs=1e-10)
    with pytest.raises(ValueError, match="6 and 5 dimensions"):
        clip_discrepancy(torch.from_numpy(x), torch.from_numpy(y[:, :5].copy()))


@pytest.mark.parametrize("dimensions", [8, 60], ids=["more images than dimensions", "fewer"])
def test_vendi_is_the_number_of_orthogonal_rows_and_1_for_equal_ones(dimensions):
    rows = features(20, dimensions, 5)
    orthogonal = torch.linalg.qr(rows.T).Q.T  # (min, D)
    repeated = torch.cat([orthogonal * 3, orthogonal, -orthogonal / 2])  # a row and its negative are one direction
    assert vendi_score(orthogonal) == pytest.approx(len(orthogonal))
    assert vendi_score(repeated) == pytest.approx(len(orthogonal))
    assert vendi_score(rows[:1].expand(9, -1)) == pytest.approx(1)
    cosines = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    eigenvalues = np.linalg.eigvalsh(cosines @ cosines.T / 20)
    eigenvalues = eigenvalues[eigenvalues > 1e-12]
    assert vendi_score(rows) == pytest.approx(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()), rel=1e-9)


# --------------------------------------------------------------------------------------------------------- accumulators


def test_gaussian_statistics_equal_numpy_for_any_batching():
    values = features(257, 20, 13) + 1e4  # far from 0, where a sum of squares would lose 8 digits
    whole, batched = GaussianStatistics(), GaussianStatistics()
    whole.update(values)
    for batch in values.split(31):
        batched.update(batch)
    batched.update(values[:0])
    for statistics in (whole, batched):
        mean, covariance = statistics.result()
        assert statistics.count == 257
        np.testing.assert_allclose(mean, values.numpy().mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(covariance, np.cov(values.numpy(), rowvar=False), rtol=1e-10, atol=1e-10)


def test_gaussian_statistics_merge_equals_one_pass():
    values = features(100, 6, 14)
    parts = [GaussianStatistics() for _ in range(3)]  # the last one stays empty
    parts[0].update(values[:1])
    parts[1].update(values[1:])
    merged = GaussianStatistics()
    for part in parts:
        merged.merge(part)
    for ours, expected in zip(merged.result(), gaussian(values), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="dimensions"):
        merged.update(torch.zeros(2, 7))
    with pytest.raises(ValueError, match="at least 2"):
        parts[0].result()


def test_feature_bank_merge_and_room():
    values = features(20, 3, 15).float()
    first, second = FeatureBank(), FeatureBank()
    first.update(values[:7])
    second.update(values[7:])
    first.merge(second)
    assert torch.equal(first.result(), values)
    expected = FeatureBank(expected=20)
    for batch in values.split(6):
        expected.update(batch)
    assert torch.equal(expected.result(), values)
    with pytest.raises(ValueError, match="no features"):
        FeatureBank().result()


# ------------------------------------------------------------------------------------------------- protocol and results


PROTOCOL = Protocol(
    extractor="inception",
    extractor_weights="ab" * 32,
    layer="2048",
    logits_layer="logits_unbiased",
    resize="bilinear 299",
    dtype="float32",
    reference=ReferenceIdentity("cifar10", "train", "cd" * 32, 50_000, (3, 32, 32)),
    generated_count=50_000,
    seed=0,
    weights="ema",
    batch_norm="running",
    label_sampling="none",
    inception_splits=10,
    kernel_subsets=100,
    kernel_subset_size=1000,
    kernel_reference_count=50_000,
    metric_seed=2020,
    precision_neighbours=3,
    coverage_neighbours=5,
    neighbour_count=10_000,
    neighbour_reference_count=10_000,
    infinity_points=15,
    versions={"torch": "2.14.1"},
)


def test_protocol_survives_json():
    assert Protocol.from_dict(json.loads(json.dumps(PROTOCOL.to_dict()))) == PROTOCOL
    result = Result({"frechet_distance": 1.5}, PROTOCOL, 2.0, 25_000.0)
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_protocol_refuses_unknown_and_missing_fields():
    values = PROTOCOL.to_dict()
    with pytest.raises(UserError, match="did you mean 'seed'"):
        Protocol.from_dict(values | {"sed": 1})
    del values["reference"]["split"]
    with pytest.raises(UserError, match="'split' is missing"):
        Protocol.from_dict(values)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (replace(PROTOCOL, weights="raw"), "weights"),
        (replace(PROTOCOL, generated_count=10_000), "generated_count"),
        (replace(PROTOCOL, extractor="efficientnet_lite0"), "extractor"),
        (replace(PROTOCOL, reference=replace(PROTOCOL.reference, split="test")), "reference.split"),
    ],
)
def test_other_protocols_are_refused_by_name(changed, field):
    assert differences(PROTOCOL, changed) == [field]
    with pytest.raises(UserError, match=f"cannot be compared: {field}: "):
        require_same(PROTOCOL, changed)


def test_versions_are_recorded_but_do_not_refuse():
    upgraded = replace(PROTOCOL, versions={"torch": "2.15.0", "numpy": "2.4"})
    require_same(PROTOCOL, upgraded)
    assert upgraded == PROTOCOL
    assert version_differences(PROTOCOL, upgraded) == ["numpy", "torch"]


def test_only_official_inception_is_called_fid():
    custom = replace(PROTOCOL, extractor="inception, custom weights")
    lite = replace(PROTOCOL, extractor="efficientnet_lite0")
    assert label("fid", PROTOCOL) == "FID"
    assert label("fid", custom) == "FD (inception, custom weights)"
    assert label("fid", lite) == "FD (efficientnet_lite0)"
    for metric in ("fid", "is", "kid"):
        assert not {"FID", "KID", "IS"} & set(label(metric, lite).split())


def test_table_has_a_row_per_result_and_a_column_per_label():
    full = Result(
        {"frechet_distance": 16.77, "kernel_distance_mean": 0.001, "kernel_distance_std": 2e-4}, PROTOCOL, 1, 2
    )
    other = Result({"frechet_distance": 120.0}, replace(PROTOCOL, extractor="efficientnet_lite0"), 1, 2)
    lines = format_table({"a": full, "longer name": other}).splitlines()
    assert len(lines) == 3
    assert lines[0].split("  ")[-1] == "images/s"
    assert "FID" in lines[0] and "FD (efficientnet_lite0)" in lines[0]
    assert "16.770" in lines[1] and "0.00100 ± 0.00020" in lines[1] and "–" in lines[1]
    assert len({len(line) for line in lines}) == 1


def test_fewer_images_than_dimensions_are_told_beside_the_number():
    few = replace(PROTOCOL, generated_count=1999)
    reference = PROTOCOL.reference.count
    assert reference >= 2048 > few.generated_count
    result = Result({"frechet_distance": -1e-9}, few, 1, 2, feature_dimensions=2048)
    told = "FID: 1,999 generated images are fewer than the 2,048 dimensions of the features"
    (remark,) = result.to_dict()["remarks"]
    assert remark.startswith(told)
    table = format_table({"a": result, "b": result}).splitlines()
    assert table[3:] == [remark] and " 0.000" in table[1] and "-0.000" not in table[1]
    enough = replace(result, protocol=replace(few, generated_count=2048))
    assert remarks(enough) == remarks(replace(result, feature_dimensions=None)) == []
    assert remarks(replace(result, metrics={"inception_score_mean": 3.0})) == []
    (remark,) = remarks(replace(result, metrics={"monge_inception_distance": 1.0}))
    assert remark.startswith("MIND: 1,999 generated images are fewer than the 2,048 dimensions")
    classes = {str(k): 1.0 for k in range(10)}
    by_class = replace(enough, metrics={"intra_frechet_distance_mean": 1.0}, classes=classes)
    (remark,) = remarks(by_class)
    assert remark.startswith("intra-FID: 204 generated images a class are fewer than the 2,048 dimensions")


def test_subsets_that_are_all_the_images_are_told_beside_the_kernel_distance():
    scores = {"kernel_distance_mean": 0.1, "kernel_distance_std": 0.0}
    few = Result(scores, replace(PROTOCOL, generated_count=300, kernel_subset_size=300), 1, 2)
    assert remarks(few) == ["KID: each subset is all 300 images, so ± says nothing"]
    assert remarks(replace(few, protocol=replace(few.protocol, kernel_subset_size=299))) == []
    assert remarks(replace(few, metrics={"inception_score_mean": 3.0})) == []


# -------------------------------------------------------------------------------------------------------------- weights


@pytest.fixture
def official(tmp_path):
    """A published file of which only the name's digits are known, as for torch.hub's files."""
    file = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(3)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return OfficialWeights("toy", file.rename(tmp_path / f"weights-{digest[:8]}.pth"))


def test_official_weights_are_recognised_by_their_checksum(official, tmp_path):
    assert verify(official).official
    elsewhere = tmp_path / "renamed.pth"
    elsewhere.write_bytes(official.path.read_bytes())
    assert verify(official, elsewhere).official


def test_a_wrong_checksum_is_refused_unless_allowed(official, tmp_path):
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(3)}, other)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="not the official toy weights"):
        verify(official, other)
    assert not verify(official, other, expected_sha256=digest).official
    for wrong in ("0" * 64, digest[:4]):
        with pytest.raises(UserError, match="expected"):
            verify(official, other, expected_sha256=wrong)
    official.path.write_bytes(other.read_bytes())  # a damaged cache
    with pytest.raises(UserError, match="not the official"):
        verify(official)
    with pytest.raises(UserError, match="cannot read the weights"):
        verify(official, tmp_path / "absent.pth")


def test_a_failed_download_names_both_ways_out(tmp_path):
    unreachable = OfficialWeights("toy", tmp_path / "cache" / "weights-00000000.pth", (tmp_path / "no.pth").as_uri())
    with pytest.raises(UserError, match=r"--weights FILE.*--extractor efficientnet_lite0") as error:
        verify(unreachable)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_is_verified(official, tmp_path):
    digits = official.sha256
    remote = OfficialWeights("toy", tmp_path / "cache" / f"weights-{digits}.pth", official.path.as_uri())
    assert verify(remote).path.read_bytes() == official.path.read_bytes()
    tampered = OfficialWeights("toy", tmp_path / "cache" / "weights-00000000.pth", official.path.as_uri())
    with pytest.raises(UserError, match="cannot download"):
        verify(tampered)
    assert not tampered.path.exists()


class Payload:
    """Pickles as a call that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_weights_file_is_executed(tmp_path):
    torch.save({"a": Payload(tmp_path / "executed")}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="not a file of plain weights"):
        load_state_dict(tmp_path / "weights.pth")
    assert not (tmp_path / "executed").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="expected a state dict"):
        load_state_dict(tmp_path / "list.pth")


def test_weights_hash_sees_one_value_and_one_type():
    module = torch.nn.Linear(3, 2)
    before = weights_hash(module)
    assert weights_hash(module) == before
    with torch.no_grad():
        module.bias[0] += 1e-3
    changed = weights_hash(module)
    assert changed != before
    assert weights_hash(module.bfloat16()) not in (before, changed)
