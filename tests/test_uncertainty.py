"""Influence functions against finite differences; intervals against repeated sampling; the line of FID∞."""

import numpy as np
import pytest
import torch

from gan.metrics import uncertainty as uncertainty_module
from gan.metrics.accumulators import GaussianStatistics, SplitProbabilities
from gan.metrics.formulas import FrechetTarget, inception_score, kernel_distance
from gan.metrics.neighbourhood import precision_and_recall
from gan.metrics.similarity import clip_discrepancy, discrepancy_influence
from gan.metrics.transport import monge_inception_distance, transport_influence
from gan.metrics.uncertainty import (
    bootstrap_interval,
    frechet_infinity,
    frechet_influence,
    inception_influence,
    kernel_influence,
)

DIMENSIONS = 6


def draw(count, generator, scale=1.0, dimensions=DIMENSIONS):
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64) * scale


def target_of(dimensions=DIMENSIONS):
    return FrechetTarget(torch.zeros(dimensions), torch.eye(dimensions))


def distance(target, features):
    statistics = GaussianStatistics()
    statistics.update(features)
    return target.distance(*statistics.result()).item()


def test_frechet_influence_is_what_a_copy_of_an_image_adds():
    features = draw(3000, torch.Generator().manual_seed(0), 1.3)
    target = target_of()
    influence = frechet_influence(target, features)
    assert influence.mean().abs() < 1e-12
    for row in (0, 17, 99):
        moved = distance(target, torch.cat([features, features[row : row + 1]])) - distance(target, features)
        assert moved * 3001 == pytest.approx(influence[row].item(), abs=0.03)


def score_of_one_split(logits):
    sums = SplitProbabilities(len(logits), splits=1)
    sums.update(logits)
    return inception_score(sums)[0]


def test_inception_influence_is_what_a_copy_of_an_image_adds():
    logits = draw(2000, torch.Generator().manual_seed(1), 2.0)
    influence = inception_influence(logits, splits=1, shuffle_seed=0)
    score = score_of_one_split(logits)
    for row in (3, 500):
        moved = score_of_one_split(torch.cat([logits, logits[row : row + 1]])) - score
        assert moved.item() * 2001 == pytest.approx(influence[row].item(), abs=0.01)
    split = inception_influence(logits, splits=10, shuffle_seed=0)
    assert np.corrcoef(split, influence)[0, 1] > 0.95


def test_inception_influence_has_one_scale_whatever_the_splits() -> None:
    logits = draw(4000, torch.Generator().manual_seed(1), 2.0)
    whole, split = (inception_influence(logits, splits, 0).std().item() for splits in (1, 10))
    assert split == pytest.approx(whole, rel=0.1)


def test_kernel_influence_is_what_leaving_an_image_out_takes():
    generator = torch.Generator().manual_seed(2)
    fake, real = draw(120, generator, 1.4), draw(120, generator)
    influence = kernel_influence(fake, real, 2020)

    def score(features):
        gamma = 1 / DIMENSIONS
        within = (features @ features.T * gamma + 1) ** 3
        count = len(features)
        between = ((features @ real.T * gamma + 1) ** 3).mean()
        return (within.sum() - within.trace()) / (count * (count - 1)) - 2 * between

    left_out = torch.stack([score(torch.cat([fake[:row], fake[row + 1 :]])) for row in range(120)])
    jackknife = 119 * (score(fake) - left_out)
    jackknife -= jackknife.mean()
    torch.testing.assert_close(influence, jackknife, rtol=0.05, atol=0.05 * jackknife.std().item())


def test_kernel_influence_of_sorted_images_is_that_of_shuffled_ones(monkeypatch):
    """With more images than the expectation is taken over, the first ones of a folder are its first classes."""
    monkeypatch.setattr(uncertainty_module, "KERNEL_ROWS", 100)
    kinds = torch.eye(2, dtype=torch.float64)
    fake, real = kinds.repeat(50, 1), kinds.repeat_interleave(100, dim=0)
    assert kernel_influence(fake, real, 2020).std() < 0.6  # it is 0 over all of them, and 2.4 over the first 100
    assert kernel_influence(real, kinds.repeat(100, 1), 2020).std() < 0.6
    each = kernel_influence(real, fake, 2020)  # itself is left out of its own mean, whichever rows were drawn
    assert all(part.mul(1e9).round().unique().numel() <= 2 for part in (each[:100], each[100:]))


def test_recall_influence_is_the_jackknife_of_balls_that_stay():
    generator = torch.Generator().manual_seed(3)
    fake, real = draw(60, generator, 0.7).float(), draw(80, generator).float()
    _, recall = precision_and_recall(fake, real)
    radii = torch.cdist(fake, fake).kthvalue(4).values
    within = torch.cdist(real, fake) <= radii
    assert recall.value == pytest.approx(within.any(dim=1).double().mean().item())
    rest = torch.stack(
        [torch.cat([within[:, :i], within[:, i + 1 :]], dim=1).any(dim=1).double().mean() for i in range(60)]
    )
    jackknife = 59 * (recall.value - rest)
    torch.testing.assert_close(recall.influence, jackknife - jackknife.mean(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "dimensions"), [(10, 16), (60, 6), (400, 6)], ids=["fewer images than dimensions", "few", "many"]
)
def test_an_interval_of_the_frechet_distance_covers_its_expectation(count, dimensions):
    """95 % nominal: fewer than 50 of 60 independent sets would be a miss; the plain percentile interval covers few."""
    generator = torch.Generator().manual_seed(4)
    target = target_of(dimensions)
    expected = np.mean([distance(target, draw(count, generator, 1.3, dimensions)) for _ in range(800)])
    covered = 0
    for seed in range(60):
        features = draw(count, generator, 1.3, dimensions)
        low, high = bootstrap_interval(distance(target, features), frechet_influence(target, features), 200, seed)
        covered += low <= expected <= high
    assert covered >= 50


def test_a_kernel_distance_interval_covers_its_expectation():
    generator = torch.Generator().manual_seed(5)
    real = draw(200, generator)
    large = draw(4000, generator, 1.3)
    expected = kernel_distance(large, real, subsets=40, subset_size=200)[0].item()
    covered = 0
    for seed in range(40):
        fake = draw(200, generator, 1.3)
        mean, _ = kernel_distance(fake, real, subsets=1, subset_size=200)
        low, high = bootstrap_interval(mean.item(), kernel_influence(fake, real, 2020), 200, seed)
        covered += low <= expected <= high
    assert covered >= 34


def test_cmmd_influence_is_what_a_copy_of_an_image_adds():
    generator = torch.Generator().manual_seed(7)
    fake, real = draw(800, generator, 1.3) + 1, draw(300, generator)
    influence = discrepancy_influence(fake, real)
    for row in (0, 5):
        moved = clip_discrepancy(torch.cat([fake, fake[row : row + 1]]), real) - clip_discrepancy(fake, real)
        assert moved * 801 == pytest.approx(influence[row].item(), rel=0.02)


def test_a_mind_interval_covers_its_expectation():
    generator = torch.Generator().manual_seed(8)
    real = draw(300, generator)
    setting = (100, 0)
    expected = np.mean([monge_inception_distance(draw(300, generator, 1.3), real, *setting) for _ in range(400)])
    covered = 0
    for seed in range(60):
        fake = draw(300, generator, 1.3)
        value = monge_inception_distance(fake, real, *setting)
        low, high = bootstrap_interval(value, transport_influence(fake, real, *setting), 200, seed)
        covered += low <= expected <= high
    assert covered >= 50


def test_mind_influence_is_what_a_larger_weight_of_an_image_adds():
    """Along one direction: copies of x make up a share t more of 2,000 images; ψ is the slope in t, less ψ's mean."""
    generator = torch.Generator().manual_seed(9)
    fake, real = draw(2000, generator, 1.4, 1), draw(2000, generator, 1.0, 1)
    influence = transport_influence(fake, real, 1, 0)
    value = monge_inception_distance(fake, real, 1, 0)
    rows = torch.randperm(2000, generator=generator)
    for row in (1, 2, 3):
        replaced = fake.clone()
        replaced[rows[:40]] = fake[row]  # in place of 40 others: the share of x grows by 2 %, theirs falls
        moved = monge_inception_distance(replaced, real, 1, 0) - value
        expected = (influence[row] - influence[rows[:40]].mean()) * 0.02
        assert moved == pytest.approx(expected.item(), abs=0.15 * abs(expected.item()) + 0.01 * value)


@pytest.mark.parametrize(("fake_count", "real_count"), [(600, 200), (200, 600)])
def test_mind_influence_has_the_scale_of_repeated_sampling_where_counts_differ(
    fake_count: int, real_count: int
) -> None:
    """The deviation over independent sets of generated images is std(ψ)/√N; rows that were not drawn have no part."""
    generator = torch.Generator().manual_seed(10)
    real = draw(real_count, generator)
    setting = (50, 0)
    sets = [draw(fake_count, generator, 1.3) for _ in range(150)]
    spread = np.std([monge_inception_distance(fake, real, *setting) for fake in sets])
    influences = [transport_influence(fake, real, *setting) for fake in sets[:10]]
    expected = np.mean([influence.std().item() for influence in influences]) / fake_count**0.5
    assert spread == pytest.approx(expected, rel=0.25)
    unseen = influences[0] == 0
    assert unseen.sum() == max(fake_count - real_count, 0)
    moved = torch.where(unseen[:, None], 100.0, sets[0])
    assert monge_inception_distance(moved, real, *setting) == monge_inception_distance(sets[0], real, *setting)


@pytest.mark.parametrize("noise", [0.0, 0.08])
def test_an_interval_is_as_wide_as_the_normal_one(noise: float) -> None:
    """Of many resamplings: ±1.96 standard errors, the resampled images' and the number's own noise added in squares."""
    influence = draw(400, torch.Generator().manual_seed(11), dimensions=1)[:, 0]
    influence -= influence.mean()
    low, high = bootstrap_interval(5.0, influence, 20_000, 0, noise)
    expected = 1.96 * (influence.var(correction=0).item() / 400 + noise**2) ** 0.5
    assert (5 - low, high - 5) == pytest.approx((expected, expected), rel=0.03)


def test_intervals_are_seeded_and_leave_global_random_state_alone():
    influence = draw(50, torch.Generator().manual_seed(6), dimensions=1)[:, 0]
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (bootstrap_interval(1.0, influence, 100, 7, noise=0.1) for _ in range(2))
    assert first == second != bootstrap_interval(1.0, influence, 100, 8, noise=0.1)
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


def test_the_line_goes_through_the_distances_and_removes_most_of_the_bias():
    generator = torch.Generator().manual_seed(9)
    dimensions = 12
    target = target_of(dimensions)
    features = draw(2000, generator, 1.2, dimensions)
    limit, slope, influence, _ = frechet_infinity(target, features, seed=0, with_influence=True)
    truth = dimensions * 0.2**2
    assert abs(limit - truth) < abs(distance(target, features[:200]) - truth) / 5
    assert slope > 0
    random = np.random.Generator(np.random.PCG64(0))
    sizes = np.unique(np.linspace(200, 2000, 15).astype(int))
    subsets = [features[np.sort(random.choice(2000, size, replace=False))] for size in sizes]
    expected = np.polyfit(1 / sizes, [distance(target, subset) for subset in subsets], 1)
    assert (slope, limit) == pytest.approx(tuple(expected), rel=1e-8)
    assert influence.shape == (2000,) and influence.mean().abs() < 1e-10


def test_the_influence_of_fid_infinity_has_the_scale_of_repeated_sampling() -> None:
    """The deviation of the limit and of the slope over independent sets is that of their influences over √N."""
    generator = torch.Generator().manual_seed(12)
    target = target_of(2)
    sets = [draw(2000, generator, 1.4, 2) for _ in range(200)]
    spreads = np.std([frechet_infinity(target, features, 0)[:2] for features in sets], axis=0)
    influences = [frechet_infinity(target, features, 0, with_influence=True)[2:] for features in sets[:20]]
    expected = np.mean([[one.std().item() for one in both] for both in influences], axis=0) / 2000**0.5
    assert spreads == pytest.approx(expected, rel=0.2)
