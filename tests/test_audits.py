"""The memorisation and mode audits: laws, slow references, and controls that are planted."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from scipy.stats import betabinom, entropy, mannwhitneyu, norm
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import NearestNeighbors

import evaluate
import train
from gan.data.store import ImageStore, prepare
from gan.errors import UserError
from gan.metrics.audits import memorisation as memorisation_module
from gan.metrics.audits import neighbours as neighbours_module
from gan.metrics.audits.data_copying import data_copying, standardised
from gan.metrics.audits.digits import REQUIRED_ACCURACY
from gan.metrics.audits.features import Features, PixelExtractor, real_features
from gan.metrics.audits.memorisation import closeness, duplicates, examine, relative_distances
from gan.metrics.audits.modes import (
    assign,
    compare_occupancy,
    divergence,
    find_communities,
    mutual_neighbour_graph,
)
from gan.metrics.audits.neighbours import Neighbours, nearest_neighbours
from gan.metrics.audits.whitening import fit_whitening
from gan.metrics.extractors.interface import identify
from gan.scoring.audit_modes import digit_modes
from gan.scoring.audited_run import AuditedRun, MeasuredImages, open_run
from gan.scoring.digit_readers import DIGIT_READERS
from tests import DEFAULT, SHARED_DATA
from tests.test_evaluator import tiny_clip
from tests.test_training import TINY

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def digits(root: Path) -> dict[str, ImageStore]:
    return {split: prepare("digits", split=split, resolution=16, root=root) for split in ("train", "test")}


def correlated(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(dimensions, dimensions)) * np.geomspace(10, 0.1, dimensions)
    return (random.normal(size=(count, dimensions)) @ mixing.T + 5).astype(np.float32)


# --- whitening


def test_whitened_features_have_unit_covariance() -> None:
    features = correlated(9000, 12)  # more than two blocks
    for components in (None, 5):
        white = fit_whitening(features, components).transform(features).double().numpy()
        assert np.abs(white.mean(axis=0)).max() < 1e-4
        assert np.abs(np.cov(white.T) - np.eye(white.shape[1])).max() < 1e-4


def test_whitening_is_the_plain_formula() -> None:
    features = correlated(300, 6).astype(np.float64)
    mean, covariance = features.mean(axis=0), np.cov(features.T)
    u, s, _ = np.linalg.svd(covariance)
    plain = (features - mean) @ u @ np.diag(s**-0.5)
    whitening = fit_whitening(features, 4)
    found = whitening.transform(features).double().numpy()
    for column in range(4):  # eigenvectors have no sign
        sign = np.sign(found[:, column] @ plain[:, column])
        assert np.abs(found[:, column] - sign * plain[:, column]).max() < 1e-5
    assert whitening.variance_share == pytest.approx(s[:4].sum() / s.sum(), rel=1e-9)


def test_whitening_keeps_what_the_variance_share_asks_for_and_drops_what_has_none() -> None:
    features = correlated(400, 8)
    shares = np.cumsum(fit_whitening(features).variances.numpy())
    shares /= shares[-1]
    for share in (0.5, 0.9, 0.99, 1.0):
        assert fit_whitening(features, variance=share).components == 1 + int((shares < share - 1e-12).sum())
    repeated = np.concatenate([features, features[:, :3]], axis=1)  # rank 8 of 11
    assert fit_whitening(repeated).components == 8
    assert fit_whitening(features[:5]).components == 4  # five points span four directions
    assert fit_whitening(features, 100).components == 8


@pytest.mark.parametrize(
    "arguments",
    [{"components": 0}, {"variance": 0.0}, {"variance": 1.5}, {"components": 2, "variance": 0.5}],
)
def test_whitening_refuses_what_makes_no_sense(arguments: dict) -> None:
    with pytest.raises(UserError, match="accepted"):
        fit_whitening(correlated(20, 3), **arguments)
    with pytest.raises(UserError, match="the same"):
        fit_whitening(np.ones((9, 3), dtype=np.float32))


# --- neighbours


@pytest.mark.parametrize("exclude_self", [False, True])
def test_blocks_find_what_scikit_learn_finds(monkeypatch: pytest.MonkeyPatch, exclude_self: bool) -> None:
    monkeypatch.setattr(neighbours_module, "QUERIES", 37)
    monkeypatch.setattr(neighbours_module, "GALLERY", 53)
    gallery = correlated(400, 10)
    queries = gallery if exclude_self else correlated(90, 10, seed=1)
    found = nearest_neighbours(torch.from_numpy(queries), torch.from_numpy(gallery), 7, exclude_self=exclude_self)
    reference = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(gallery)
    distances, indices = reference.kneighbors(None if exclude_self else queries)
    assert np.abs(found.distances.numpy() - distances).max() < 1e-5
    exact = np.take_along_axis(cosine_distances(queries.astype(float), gallery.astype(float)), indices, axis=1)
    separated = np.diff(exact, axis=1).min(axis=1) > 1e-6
    assert (found.indices.numpy()[separated] == indices[separated]).all()
    if exclude_self:
        assert (found.indices != torch.arange(400)[:, None]).all()


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(UserError, match="accepted: 1 to 4"):
        nearest_neighbours(torch.randn(5, 2), torch.randn(5, 2), 5, exclude_self=True)


# --- memorisation


def test_closeness_is_the_statistic_of_mann_and_whitney() -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(0, 30, 70).astype(float), random.integers(3, 30, 50).astype(float)  # with ties
    wins = (one[:, None] < other).mean() + 0.5 * (one[:, None] == other).mean()
    found = closeness(one, other)
    assert found.probability == pytest.approx(wins, abs=1e-12)
    assert found.probability == pytest.approx(1 - mannwhitneyu(one, other).statistic / (70 * 50), abs=1e-12)
    assert found.median_ratio == np.median(one) / np.median(other)
    assert found.p_value == pytest.approx(mannwhitneyu(one, other, alternative="less").pvalue)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_interval_of_closeness_covers_the_truth(shift: float) -> None:
    random = np.random.default_rng(1)
    truth = norm.cdf(shift / np.sqrt(2))
    covered = 0
    for _ in range(400):
        found = closeness(random.normal(0, 1, 60) + 9, random.normal(shift, 1, 40) + 9)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_interval_does_not_collapse_when_all_are_closer() -> None:
    found = closeness(np.arange(50.0), np.arange(100.0, 150.0))
    assert found.probability == found.high == 1
    assert 0.85 < found.low < 0.97
    assert closeness(np.arange(100.0, 150.0), np.arange(50.0)).high < 0.15


def test_the_interval_holds_where_one_pair_of_millions_is_won() -> None:
    """The score interval has no root on that side of 1e-8: its bound is the end of [0, 1]."""
    lost, won = np.full(10_000, 2.0), np.full(10_000, 0.25)
    lost[0], won[0] = 0.5, 1.0
    rare = closeness(lost, won)
    assert rare.probability == pytest.approx(1e-8, abs=1e-15)
    assert 0 <= rare.low <= rare.probability <= rare.high < 0.01
    other = closeness(won, lost)
    assert (other.low, other.high) == pytest.approx((1 - rare.high, 1 - rare.low), abs=1e-9)


def test_the_p_value_of_duplicates_is_right_by_simulation() -> None:
    """Under exchangeability the count is beta-binomial, so P(p ≤ α) ≤ α, and its mean is as expected."""
    random = np.random.default_rng(2)
    found = [duplicates(random.gamma(2, size=200), random.gamma(2, size=300), 0.02) for _ in range(800)]
    assert found[0].held_out_count == 6
    assert found[0].expected == pytest.approx(6 / 301)
    assert np.mean([one.share for one in found]) == pytest.approx(6 / 301, rel=0.08)
    p_values = np.array([one.p_value for one in found])
    for level in (0.01, 0.05, 0.2):
        assert (p_values <= level).mean() <= level + 3 * np.sqrt(level / 800)
    assert (p_values <= 0.2).mean() > 0.1  # it is not merely cautious
    assert found[0].p_value == pytest.approx(betabinom.sf(found[0].count - 1, 200, 6, 295))


def faces(count: int, seed: int) -> torch.Tensor:
    """Points of one distribution in the plane of 24 whitened columns."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 24)).astype(np.float32))


def test_planted_copies_are_detected_and_nothing_else_is() -> None:
    """1 % of the generated images are slightly altered training images."""
    training, held_out, honest = faces(3000, 0), faces(1000, 1), faces(1000, 2)
    clean = examine(honest, held_out, training)
    assert not clean.suspicious
    assert clean.closeness.low < 0.5 < clean.closeness.high
    copied = honest.clone()
    copied[:10] = training[100:110] + 0.05 * faces(10, 3)
    found = examine(copied, held_out, training)
    assert found.suspicious
    assert found.duplicates.count >= 10
    assert found.duplicates.p_value < 0.005
    assert found.relative_duplicates.p_value < 0.005
    assert set(found.nearest.distances[:, 0].argsort()[:10].tolist()) == set(range(10))
    assert found.nearest.indices[:10, 0].tolist() == list(range(100, 110))


def test_copying_in_one_cell_shows_where_other_cells_hide_it() -> None:
    """One of six clusters is copied, the others are spread too far: closeness is below ½, the lowest cell is not."""
    random = np.random.default_rng(7)
    centres = 20 * random.normal(size=(6, 24))
    which = [random.integers(6, size=count) for count in (3000, 1200, 1200)]
    training, held_out, honest = (
        torch.from_numpy((centres[rows] + random.normal(size=(len(rows), 24))).astype(np.float32)) for rows in which
    )
    clean = data_copying(*(nearest_neighbours(images, training, 1) for images in (honest, held_out)), training)
    assert clean.cells >= 6 and clean.share > 0.9
    assert clean.statistic is not None and clean.lowest is not None
    assert abs(clean.statistic) < 3 and clean.lowest > -3.5
    copied = honest + 2 * faces(1200, 8)
    copies = torch.from_numpy(which[2] == 0)
    copied[copies] = training[which[0] == 0][: int(copies.sum())] + 0.05 * faces(int(copies.sum()), 9)
    near = [nearest_neighbours(images, training, 1) for images in (copied, held_out)]
    found = data_copying(*near, training)
    one, other = (images.distances[:, 0].double().numpy() for images in near)
    assert closeness(one, other).probability < 0.5
    assert found.lowest is not None and found.lowest < -6


def test_the_standardised_statistic_is_that_of_scipy() -> None:
    random = np.random.default_rng(3)
    ours, theirs = random.normal(size=40), random.normal(size=55) + 0.4
    expected = mannwhitneyu(ours, theirs, alternative="less", method="asymptotic", use_continuity=False).pvalue
    assert norm.cdf(standardised(ours, theirs)) == pytest.approx(expected, rel=1e-9)


def test_a_generator_that_hovers_about_the_training_images_is_closer() -> None:
    training, held_out = faces(3000, 0), faces(1000, 1)
    found = examine(training[:1000] + 0.7 * faces(1000, 4), held_out, training)
    assert found.closeness.low > 0.7
    assert found.closeness.median_ratio < 0.9
    assert found.suspicious


def test_relative_distances_are_the_plain_ratio() -> None:
    found = nearest_neighbours(faces(20, 1), faces(50, 0), 5)
    distances = found.distances.double().numpy()
    assert relative_distances(found) == pytest.approx(distances[:, 0] / distances[:, 1:].mean(axis=1))
    copied = nearest_neighbours(faces(50, 0), faces(50, 0), 5)
    assert relative_distances(copied).max() < 1e-5


def test_repeated_images_are_counted() -> None:
    training, held_out, honest = faces(3000, 0), faces(1000, 1), faces(1000, 2)
    assert examine(honest, held_out, training).repeats.share < 0.03
    assert not examine(honest, held_out, training).repetitive
    repeating = honest.clone()
    repeating[500:] = honest[:500] + 0.05 * faces(500, 5)
    assert examine(repeating, held_out, training).repeats.share > 0.95
    assert examine(repeating, held_out, training).repetitive


def test_planted_copies_of_real_images_are_detected(root: Path) -> None:
    """CIFAR-10 pixels: other real images pass as generated ones; with 1 % altered training images they do not."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data")
    with np.load(SHARED_DATA / "cifar10_test.npz") as archive:
        training, held_out, honest = np.split(archive["images"][:6000], [4000, 5000])
    random = np.random.default_rng(0)
    copied = honest.copy()
    noisy = training[:10].astype(float) * 0.95 + random.normal(0, 4, size=training[:10].shape)
    copied[:10] = noisy.round().clip(0, 255).astype(np.uint8)
    features = {name: pixels(value, root) for name, value in
                (("train", training), ("held", held_out), ("honest", honest), ("copied", copied))}  # fmt: skip
    whitening = fit_whitening(features["train"], variance=0.9)
    white = {name: whitening.transform(value) for name, value in features.items()}
    assert not examine(white["honest"], white["held"], white["train"]).suspicious
    found = examine(white["copied"], white["held"], white["train"])
    assert found.suspicious
    assert min(found.duplicates.p_value, found.relative_duplicates.p_value) < 0.0033
    assert found.nearest.indices[:10, 0].tolist() == list(range(10))


def pixels(images: np.ndarray, root: Path) -> Features:
    return real_features(PixelExtractor(), images, f"{images.sum()}", root / "features", 500, CPU)


def in_cells(*cells: np.ndarray) -> Neighbours:
    """Distances to the nearest training image, which is image k of cell k."""
    distances = torch.from_numpy(np.concatenate(cells)).float()[:, None]
    return Neighbours(distances, torch.arange(len(cells)).repeat_interleave(torch.tensor([*map(len, cells)]))[:, None])


def test_copying_is_the_mean_of_cells_that_have_enough_images_of_either_kind() -> None:
    """Three training images are three cells; the last has too few generated images."""
    random = np.random.default_rng(3)
    ours = [random.uniform(0, 0.4, 30).round(2), random.uniform(0, 1, 25).round(2), random.uniform(0, 1, 19)]
    theirs = [random.uniform(0, 0.8, 40).round(2), random.uniform(0.2, 1, 60).round(2), random.uniform(0, 1, 50)]
    scores = []
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        further = sum((a > b) + 0.5 * (a == b) for a in one for b in other)
        pairs, images = len(one) * len(other), len(one) + len(other)
        scores.append((further - pairs / 2) / math.sqrt(pairs * (images + 1) / 12))
    found = data_copying(in_cells(*ours), in_cells(*theirs), torch.eye(3))
    assert found.statistic == pytest.approx((40 * scores[0] + 60 * scores[1]) / 100)
    assert found.lowest == pytest.approx(min(scores)) and scores[0] < -1
    assert (found.cells, found.share) == (2, 100 / 150)


def test_honest_images_are_hardly_ever_suspicious(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 120 generators that draw from what the held-out images are of, one or so."""
    monkeypatch.setattr(memorisation_module, "data_copying", lambda *given: None)  # it is slow, and not asked
    generator = torch.Generator().manual_seed(4)
    found = [
        examine(*torch.randn(240, 8, generator=generator).split([60, 60, 120])).suspicious for _ in range(120)
    ]  # generated, held-out and training images
    assert np.mean(found) <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 120)


@pytest.mark.parametrize("which", ["closeness", "duplicates", "relative_duplicates"])
def test_three_tests_share_their_level(which: str) -> None:
    """By Bonferroni: each may spend a third of 1 %."""
    images = torch.randn(300, 8, generator=torch.Generator().manual_seed(5))
    clean = examine(images[:100], images[100:200], images[200:])
    certain = {
        name: replace(getattr(clean, name), p_value=1.0) for name in ("closeness", "duplicates", "relative_duplicates")
    }
    for p_value, suspicious in ((0.005, False), (0.0034, False), (0.0033, True)):
        changed = certain | {which: replace(certain[which], p_value=p_value)}
        assert replace(clean, **changed).suspicious == suspicious


# --- modes


def test_the_graph_is_mutual() -> None:
    features = torch.from_numpy(correlated(200, 5))
    edges = mutual_neighbour_graph(features, 6)
    near = nearest_neighbours(features, features, 6, exclude_self=True).indices.numpy()
    wanted = {(i, j) for i in range(200) for j in near[i] if i < j and i in near[j]}
    assert {tuple(edge) for edge in edges.tolist()} == wanted


def test_communities_of_separate_groups_are_the_groups_whatever_the_seed() -> None:
    random = np.random.default_rng(0)
    centres = np.linalg.qr(random.normal(size=(8, 8)))[0][:4] * 20
    truth = np.repeat(np.arange(4), [30, 26, 22, 18])
    features = torch.from_numpy((centres[truth] + random.normal(size=(96, 8))).astype(np.float32))
    edges = mutual_neighbour_graph(features, 15)
    edges = edges[(edges != 0).all(axis=1)]  # the first node is left without an edge
    found = find_communities(edges, 96, 10, seed=0)
    assert found[0] == -1
    assert (found[1:] == truth[1:]).all()  # numbered by size
    assert (find_communities(edges, 96, 10, seed=5) == found).all()
    assert set(find_communities(edges, 96, 24, seed=0).tolist()) == {-1, 0, 1}
    with pytest.raises(UserError, match="no community"):
        find_communities(edges, 96, 50, seed=0)
    assert (assign(features[:5], features, found, 15) == 0).all()


def test_infomap_is_reproducible(digits: dict[str, ImageStore], root: Path) -> None:
    features = pixels(digits["train"].images, root)
    nodes = fit_whitening(features, 32).transform(features)
    edges = mutual_neighbour_graph(nodes, 15)
    first = find_communities(edges, len(nodes), 10, seed=3)
    assert (find_communities(edges, len(nodes), 10, seed=3) == first).all()


def test_a_vote_is_won_by_the_majority_and_a_tie_by_the_nearest() -> None:
    angles = torch.tensor([0.00, 0.10, 0.20, 0.30, 0.05])
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1)
    communities = np.array([1, 0, 0, 1, -1])  # the last has no vote
    query = torch.tensor([[1.0, 0.0]])
    assert assign(query, gallery, communities, 1).tolist() == [1]
    assert assign(query, gallery, communities, 2).tolist() == [1]
    assert assign(query, gallery, communities, 3).tolist() == [0]


def test_divergence_is_the_plain_sum() -> None:
    first, second = np.array([3, 0, 5]), np.array([1, 4, 2])
    p, q = (first + 0.5) / 9.5, (second + 0.5) / 8.5
    assert divergence(first, second) == pytest.approx(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))
    assert divergence(first, first) == 0


def test_equal_distributions_pass_and_small_empty_modes_are_not_called_missed() -> None:
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(60, 0.5))
    listed, low = 0, 0
    for seed in range(60):
        one, other = (random.multinomial(count, shares) for count in (500, 800))
        report = compare_occupancy(one, other, [str(mode) for mode in range(60)], seed)
        assert report.covered == (one > 0).sum()
        assert set(report.undecided) == set(np.flatnonzero((one == 0) & (other > 0)))
        listed += bool(report.missed or report.under or report.over)
        low += report.p_value <= 0.05
    assert listed <= 8  # 60 × 2 sides × 5 % = 6 at most are expected
    assert low <= 8


def test_hand_made_counts_are_judged_as_they_should_be() -> None:
    real = np.array([300, 300, 300, 100, 3])
    generated = np.array([300, 0, 100, 600, 0])
    report = compare_occupancy(generated, real, list("abcde"), 0)
    assert report.kl_generated_real == pytest.approx(entropy(generated + 0.5, real + 0.5))
    assert report.kl_real_generated == pytest.approx(entropy(real + 0.5, generated + 0.5))
    assert (report.covered, report.total) == (3, 5)
    assert (report.missed, report.under, report.over, report.undecided) == ((1,), (2,), (3,), (4,))
    assert report.p_value == pytest.approx(1 / 501)
    assert report.kl_generated_real > 20 * report.chance


def test_a_generator_without_three_digits_is_caught_and_real_test_digits_pass(
    digits: dict[str, ImageStore], root: Path
) -> None:
    train_features, test_features = pixels(digits["train"].images, root), pixels(digits["test"].images, root)
    whitening = fit_whitening(train_features[::2], 32)
    nodes = whitening.transform(train_features[::2])
    communities = find_communities(mutual_neighbour_graph(nodes, 15), len(nodes), 10, seed=0)
    total = int(communities.max()) + 1

    def counts(features: np.ndarray) -> np.ndarray:
        return np.bincount(assign(whitening.transform(features), nodes, communities, 15), minlength=total)

    names = [str(mode) for mode in range(total)]
    reference = counts(train_features[1::2])
    real = compare_occupancy(counts(test_features), reference, names, 0)
    assert not real.missed
    assert not real.over
    assert real.p_value > 0.01
    kept = ~np.isin(digits["train"].labels[1::2], (3, 5, 8))
    report = compare_occupancy(counts(train_features[1::2][kept]), reference, names, 0)
    labels = digits["train"].labels[::2]
    lacking = {mode for mode in range(total) if np.bincount(labels[communities == mode]).argmax() in (3, 5, 8)}
    assert set(report.missed) <= lacking
    assert set(report.missed) | set(report.under) | set(report.undecided) >= {
        mode
        for mode in lacking
        if (labels[communities == mode] == np.bincount(labels[communities == mode]).argmax()).mean() > 0.95
    }
    assert len(report.missed) >= 3
    assert report.p_value < 0.01


@pytest.mark.parametrize("resolution", [8, 32])
def test_the_digit_classifier_reads_held_out_digits(root: Path, resolution: int) -> None:
    classifier = DIGIT_READERS["digits"](resolution, root)
    test = prepare("digits", split="test", resolution=resolution, root=root)
    assert classifier.accuracy >= REQUIRED_ACCURACY
    assert (classifier.classify(test.images) == test.labels).mean() == classifier.accuracy


def test_the_modes_of_stacked_digits_are_counted_exactly(digits: dict[str, ImageStore], root: Path) -> None:
    """Of training digits, which the classifier reads without a mistake, so the count is known."""
    classifier = DIGIT_READERS["digits"](16, root)
    train_set = digits["train"]
    assert train_set.labels is not None
    right = classifier.classify(train_set.images) == train_set.labels
    example = [np.flatnonzero(right & (train_set.labels == digit))[0] for digit in range(10)]
    modes = [0, 7, 7, 123, 999, 980]
    glyphs = train_set.images[example]  # one of each digit
    stacks = np.stack([np.concatenate(glyphs[[mode // 100, mode // 10 % 10, mode % 10]], axis=2) for mode in modes])
    assert classifier.classify(stacks).tolist() == modes
    stacked = prepare("stacked_digits", split="test", resolution=16, root=root, count=2000)
    assert (classifier.classify(stacked.images) == stacked.labels).mean() > 0.93  # about 0.99³


def test_features_on_disk_are_read_again_and_made_anew_when_damaged(root: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(23, 8, 8, 1), dtype=np.uint8)
    first = np.array(real_features(PixelExtractor(), images, "one", tmp_path, 5, CPU))
    assert first.shape == (23, 192)
    assert np.abs(first[:, :64] - (images.reshape(23, 64) / 127.5 - 1)).max() < 1e-6
    (file,) = tmp_path.iterdir()
    again = real_features(PixelExtractor(), images[::-1], "one", tmp_path, 5, CPU)  # the hash is what counts
    assert (again == first).all()
    file.write_bytes(file.read_bytes()[:1000])
    assert (real_features(PixelExtractor(), images, "one", tmp_path, 7, CPU) == first).all()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


# --- the commands


def call(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    overrides = [part for value in (*TINY, f"data.root={root}", "evaluation.samples=60") for part in ("--set", value)]
    result = call(train.main, DEFAULT, *overrides, "--device", "cpu", "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_neighbours_of_a_run(run: Path) -> None:
    options = ("--extractor", "pixels", "--device", "cpu")
    result = call(evaluate.main, "neighbours", run, *options)
    assert result.exit_code == 0, result.output
    assert "no sign of copying" in result.stdout
    (file,) = (run / "audits").glob("neighbours_*.json")
    saved = json.loads(file.read_text())
    assert saved["duplicates"]["count"] == 0
    assert saved["protocol"]["training"]["count"] == 1437
    assert saved["protocol"]["held_out"]["count"] == 360
    assert saved["protocol"]["generated"] == {
        "count": 60, "seed": 0, "weights": "ema", "step": 6, "label_sampling": "none",
    }  # fmt: skip
    assert saved["protocol"]["extractor"] == "pixels"
    assert len(saved["closest"]) == 20
    assert Image.open(file.with_suffix(".png")).size[0] > 400
    again = call(evaluate.main, "neighbours", run, *options, "--json")
    assert json.loads(again.stdout) == saved


def test_modes_of_a_run(run: Path) -> None:
    result = call(evaluate.main, "modes", run, "--device", "cpu")
    assert result.exit_code == 0, result.output
    (file,) = (run / "audits").glob("modes_*_digits_*.json")
    saved = json.loads(file.read_text())
    covered = np.count_nonzero(saved["generated"])
    assert (len(saved["generated"]), sum(saved["generated"]), sum(saved["real"])) == (10, 60, 1437)
    assert f": {covered} of 10 modes covered" in result.stdout and saved["covered"] == covered < 10
    arguments = ("--by", "communities", "--extractor", "pixels", "--components", 16, "--raw", "--json")
    result = call(evaluate.main, "modes", run, *arguments, "--device", "cpu")
    assert result.exit_code == 0, result.output
    saved = json.loads(result.stdout)
    assert saved["total"] > 10
    assert saved["over"]  # a generator of six steps knows few shapes
    assert saved["p_value"] < 0.01
    assert not saved["control"]["missed"]
    assert saved["protocol"]["whitening_components"] == 16
    assert saved["protocol"]["generated"]["weights"] == "raw"
    names = {path.name for path in (run / "audits").glob("modes_*")}
    assert {name.rpartition("60")[2] for name in names} == {".json", "_least.png", "_most.png"}
    assert len(names) == 6


def test_stacked_digits_are_held_against_uniform_classes_and_against_training_triples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(1)
    digits = random.choice(10, 300, p=[0.28, *[0.08] * 9])
    triples = random.choice(digits, (2000, 3)) @ [100, 10, 1]
    black = np.zeros((2000, 8, 8, 3), np.uint8)
    training = ImageStore(
        black, triples, tuple(f"{triple:03}" for triple in range(1000)), "hash", "stacked_digits", "train",
        parts=ImageStore(black[:300], digits, tuple("0123456789"), "parts", "digits", "train"),
    )  # fmt: skip
    shown = np.repeat([0, 123, 999], [50, 30, 20])
    run = SimpleNamespace(
        config=SimpleNamespace(
            data=SimpleNamespace(source="stacked_digits", root=""), evaluation=SimpleNamespace(seed=0)
        ),
        training_images=lambda: training,
        held_out_images=lambda: None,
        generated=lambda extractor: MeasuredImages(black[:100], np.zeros((100, 1), np.float32), {}),
    )
    reader = SimpleNamespace(
        classify=lambda images: shown if len(images) == 100 else triples, accuracy=0.99, identity="stub"
    )
    monkeypatch.setitem(DIGIT_READERS, "stacked_digits", lambda resolution, root: reader)
    found = digit_modes(cast(AuditedRun, run))
    assert (found.report.covered, found.report.total, found.control.covered) == (3, 1000, len({*triples}))

    shares = np.array([0.5, 0.3, 0.2])
    of_digit = np.bincount(digits, minlength=10) / 300
    expected = np.array([math.prod(of_digit[int(digit)] for digit in name) for name in ("000", "123", "999")])
    assert found.facts["KL(images ‖ uniform)"] == pytest.approx((shares * np.log(shares * 1000)).sum())
    assert found.facts["KL(images ‖ training triples)"] == pytest.approx((shares * np.log(shares / expected)).sum())
    ours, theirs = (np.bincount(labels, minlength=1000) + 0.5 for labels in (shown, triples))
    assert found.report.kl_generated_real == pytest.approx(entropy(ours, theirs))
    assert found.report.kl_real_generated == pytest.approx(entropy(theirs, ours))
    assert found.control.kl_generated_real == found.control.kl_real_generated == 0


def test_repeats_of_sorted_images_are_those_of_all_of_them() -> None:
    """Of twice as many held-out images the first half is its first classes, which may be less alike than the others."""
    wide, narrow = torch.randn(3000, 24, generator=torch.Generator().manual_seed(6)), faces(1, 7)[0, :24]
    tight = narrow + 0.01 * torch.randn(3000, 24, generator=torch.Generator().manual_seed(8))
    held_out, generated = torch.cat([wide[:1000], tight[:1000]]), torch.cat([wide[1000:1500], tight[1000:1500]])
    training = torch.cat([wide[1500:], tight[1500:]])
    assert examine(generated, held_out, training).repeats.share < 0.05  # 0.5 beside the first thousand


def test_an_audit_reads_images_as_the_scores_do(run: Path, tmp_path: Path) -> None:
    settings = {"extractor": "efficientnet_lite0", "resize": "antialiased"}
    audited = open_run(run, None, "ema", "cpu", settings)
    assert identify(audited.extractor).resize.startswith("bicubic")
    weights = tmp_path / "clip.pth"
    torch.save(tiny_clip(), weights)
    settings = {"extractor": "clip-vit-b-32", "weights": str(weights)}
    with pytest.raises(UserError, match="SHA-256"):
        _ = open_run(run, None, "ema", "cpu", settings).extractor
    settings["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert identify(open_run(run, None, "ema", "cpu", settings).extractor).name.startswith("clip-vit-b-32")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["neighbours", "--extractor", "pixels", "--quantile", "nan"], "--quantile: nan found"),
        (["neighbours", "--extractor", "pixel"], "did you mean 'pixels'"),
        (["neighbours", "--extractor", "pixels", "--components", "3", "--variance", "0.5"], "accepted: one of them"),
        (["neighbours", "--extractor", "pixels", "--held-out-path", "somewhere"], "somewhere"),
        (["modes", "--step", "5"], "step 5"),
        (["modes", "--gallery", "100"], "--gallery: given, but a classifier reads the digits"),
        (["modes", "--neighbours", "15"], "--neighbours: given, but a classifier reads the digits"),
        (["modes", "--by", "communities", "--extractor", "pixels", "--minimum-size", "5000"], "no community"),
    ],
)
def test_mistakes_are_one_line(run: Path, arguments: list[str], words: str) -> None:
    result = call(evaluate.main, arguments[0], run, *arguments[1:], "--device", "cpu")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("evaluate ")
