"""Diagnostics against other libraries, conservation laws, and heads whose state is known."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from gan.models.heads import CascadingRejection, LinearHead
from gan.objectives.losses import Hinge, NonSaturating
from gan.training.diagnostics import (
    DeadStageAlarm,
    Observation,
    area_under_curve,
    diagnose,
    gradient_shares,
    mean_off_diagonal,
    score_correlations,
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


def test_gradient_shares_of_a_linear_loss_are_the_lengths_of_the_effective_weights() -> None:
    seen, cascade = observation(), head()
    jacobian = torch.autograd.functional.jacobian(cascade, seen.features[:1])[0, :, 0]  # dD_i/dv: the unrolled u_i
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    expected = jacobian.norm(dim=1) * weights
    found = gradient_shares(cascade, Hinge(), weights, seen)
    torch.testing.assert_close(found, expected / expected.sum())
    torch.testing.assert_close(gradient_shares(cascade, NonSaturating(), UNIFORM, seen).sum().item(), 1.0)


def test_correlations_and_cosines_are_numpys() -> None:
    seen, cascade = observation(), head()
    scores = cascade(seen.features).detach()
    torch.testing.assert_close(score_correlations(cascade, seen), torch.corrcoef(scores.T).float())
    cosines = weight_cosines(cascade)
    expected = torch.nn.functional.cosine_similarity(cascade.weight[:, None], cascade.weight[None], dim=2)
    torch.testing.assert_close(cosines, expected.detach().float())
    assert mean_off_diagonal(torch.tensor([[1.0, -0.5], [0.25, 1.0]])) == 0.375


def test_heads_without_residuals_are_diagnosed_by_their_scores() -> None:
    linear = LinearHead(DIM).double()
    assert diagnose(linear, Hinge(), UNIFORM[:1], observation()).keys() == {
        "stages/accuracy", "stages/auc", "stages/gradient_share",
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
