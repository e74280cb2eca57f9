"""Diagnostics against other libraries, conservation laws, and heads whose state is known."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from gan.models.heads import CascadingRejection, LinearHead
from gan.objectives.losses import Hinge, LeastSquares, NonSaturating, Wasserstein
from gan.training.diagnostics import (
    DeadStageAlarm,
    Observation,
    area_under_curve,
    diagnose,
    effective_number,
    gradient_shares,
    likeness,
    mean_off_diagonal,
    score_correlations,
    second_moment_gap,
    weight_cosines,
)

R, FAKE, DIM = 30, 20, 12
UNIFORM = torch.full((3,), 1 / 3, dtype=torch.float64)


def observation(shift: float = 0.0) -> Observation:
    torch.manual_seed(0)
    features = torch.randn(R + FAKE, DIM, dtype=torch.float64)
    features[:R, 0] += shift
    return Observation(features, None, R)


def head(rejection: str = "sequential") -> CascadingRejection:
    torch.manual_seed(1)
    return CascadingRejection(DIM, 3, rejection=rejection).double()


def test_area_under_curve_is_scikit_learns_ties_included() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(R, 3).mul(2).round(), torch.randn(FAKE, 3).mul(2).round()
    labels = [1] * R + [0] * FAKE
    expected = [roc_auc_score(labels, torch.cat([real[:, i], fake[:, i]])) for i in range(3)]
    assert area_under_curve(real, fake).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("rejection", ["sequential", "orthogonal"])
def test_shares_removed_are_those_of_conserved_energy(rejection: str) -> None:
    seen, cascade = observation(), head(rejection)
    found = diagnose(cascade, Hinge(), UNIFORM, seen)
    left = cascade.all_residuals(seen.features)[:, -1].square().sum(1) / seen.features.square().sum(1)
    assert found["stages/removed_from_real"].sum().item() == pytest.approx(1 - left[:R].mean().item())
    assert found["stages/removed_from_fake"].sum().item() == pytest.approx(1 - left[R:].mean().item())


def test_a_stage_along_the_difference_separates_and_one_across_it_does_not() -> None:
    seen, cascade = observation(shift=20.0), head()
    with torch.no_grad():
        cascade.weight.copy_(torch.eye(3, DIM, dtype=torch.float64))
    found = diagnose(cascade, Hinge(), UNIFORM, seen)
    assert found["stages/auc"][0] == 1
    assert found["stages/auc"][1:].sub(0.5).abs().max() < 0.25
    assert found["stages/accuracy"][0] > found["stages/accuracy"][1]


def test_accuracy_is_the_share_on_the_right_side_of_the_losses_own_boundary() -> None:
    seen, cascade = observation(shift=1.0), head()
    real, fake = cascade(seen.features).split([R, FAKE])
    for loss, boundary in ((Hinge(), 0.0), (LeastSquares(), 0.5), (LeastSquares(real_target=0, fake_target=-2), -1.0)):
        expected = ((real > boundary).double().mean(0) + (fake < boundary).double().mean(0)) / 2
        found = diagnose(cascade, loss, UNIFORM, seen)["stages/accuracy"]
        torch.testing.assert_close(found, expected, check_dtype=False)
    assert "stages/accuracy" not in diagnose(cascade, Wasserstein(), UNIFORM, seen)


def test_gradient_shares_of_a_linear_loss_are_the_lengths_of_the_effective_weights() -> None:
    seen, cascade = observation(), head()
    jacobian = torch.autograd.functional.jacobian(cascade, seen.features[:1])[0, :, 0]  # dD_i/dv: the unrolled u_i
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    expected = jacobian.norm(dim=1) * weights
    found = gradient_shares(cascade, Hinge(), weights, seen)
    torch.testing.assert_close(found, expected / expected.sum())
    fakes = seen.features[seen.real_count :]
    slopes = torch.sigmoid(-cascade(fakes)).detach()  # |d softplus(−D)/dD|
    jacobians = torch.stack([torch.autograd.functional.jacobian(cascade, one[None])[0, :, 0] for one in fakes])
    expected = (slopes.unsqueeze(-1) * jacobians).square().sum((0, 2)).sqrt()
    torch.testing.assert_close(gradient_shares(cascade, NonSaturating(), UNIFORM, seen), expected / expected.sum())


def test_correlations_and_cosines_are_numpys() -> None:
    seen, cascade = observation(), head()
    scores = cascade(seen.features).detach()
    found = score_correlations(cascade, seen)
    for name, rows in {"score_correlation": scores, "correlation_within_real": scores[:R],
                       "correlation_within_fake": scores[R:]}.items():  # fmt: skip
        expected = np.corrcoef(rows.numpy().T)
        np.testing.assert_allclose(found[f"stages/{name}"], expected, rtol=1e-5, atol=1e-6)
    cosines = weight_cosines(cascade)
    expected = torch.nn.functional.cosine_similarity(cascade.weight[:, None], cascade.weight[None], dim=2)
    torch.testing.assert_close(cosines, expected.detach().float())
    assert mean_off_diagonal(torch.tensor([[1.0, -0.5], [0.25, 1.0]])) == 0.375


def test_uncorrelated_stages_that_separate_alike_correlate_over_all_images() -> None:
    torch.manual_seed(0)
    features = torch.randn(40_000, DIM, dtype=torch.float64)
    features[:20_000, :2] += 1.4  # d = 1.4 in either of two stages
    cascade = head()
    with torch.no_grad():
        cascade.weight.copy_(torch.eye(3, DIM, dtype=torch.float64))
    found = score_correlations(cascade, Observation(features, None, 20_000))
    assert found["stages/score_correlation"][0, 1].item() == pytest.approx(0.49 / 1.49, abs=0.01)
    assert found["stages/correlation_within_real"][0, 1].abs() < 0.02
    assert found["stages/correlation_within_fake"][0, 1].abs() < 0.02


def test_the_effective_number_of_stages_is_the_exponential_of_an_entropy() -> None:
    correlations = np.corrcoef(np.random.default_rng(0).normal(size=(4, 9)))
    shares = np.linalg.eigvalsh(correlations) / 4
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_number(torch.from_numpy(correlations)) == pytest.approx(expected)
    assert effective_number(torch.eye(5)) == pytest.approx(5)
    assert effective_number(torch.ones(5, 5)) == pytest.approx(1, abs=1e-6)
    blocks = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))  # two stages, each twice
    assert effective_number(blocks) == pytest.approx(2)
    matrices = {"stages/score_correlation": blocks, "stages/weight_cosine": torch.eye(4)}
    assert likeness(matrices) == pytest.approx(
        {"stages/score_correlation": 1 / 3, "stages/weight_cosine": 0, "stages/effective_number": 2}
    )


def test_the_gap_of_second_moments_is_numpys_and_bounded() -> None:
    numbers = np.random.default_rng(0)
    real, fake = numbers.normal(3, 2, (R, 4)), numbers.normal(0, 1, (FAKE, 4))
    fake[:, 3] = 1.5  # constant
    expected = (real.var(0) - fake.var(0)) / (real.var(0) + fake.var(0))
    found = second_moment_gap(torch.from_numpy(real), torch.from_numpy(fake))
    np.testing.assert_allclose(found, expected)
    assert found[3] == 1
    assert second_moment_gap(torch.ones(R, 1), torch.ones(FAKE, 1)) == 0


def test_heads_without_residuals_are_diagnosed_by_their_scores() -> None:
    linear = LinearHead(DIM).double()
    assert diagnose(linear, Hinge(), UNIFORM[:1], observation()).keys() == {
        "stages/accuracy", "stages/auc", "stages/second_moment_gap", "stages/gradient_share",
    }  # fmt: skip
    assert weight_cosines(linear) is None


def test_diagnosing_changes_nothing() -> None:
    seen, cascade = observation(), head()
    before, random = cascade.weight.clone(), torch.get_rng_state()
    diagnose(cascade, Hinge(), UNIFORM, seen)
    assert torch.equal(cascade.weight, before)
    assert cascade.weight.grad is None
    assert torch.equal(torch.get_rng_state(), random)


def test_the_alarm_names_a_stage_once_when_a_full_window_is_dead_and_again_after_recovery() -> None:
    alarm = DeadStageAlarm(window=3)
    assert [alarm.update([0.9, 0.5]) for _ in range(5)] == [[], [], [2], [], []]
    assert alarm.dead() == {2}
    restored = DeadStageAlarm(window=3)
    restored.load_state_dict(alarm.state_dict())
    assert restored.update([0.9, 0.9]) == []
    assert restored.dead() == set()
    assert [restored.update([0.9, 0.5]) for _ in range(3)] == [[], [], [2]]
