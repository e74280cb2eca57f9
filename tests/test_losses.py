"""Adversarial losses against their formulas, and the one place where stages are averaged."""

import pytest
import torch
from torch import Tensor

from gan.objectives.losses import LOSSES, LeastSquares
from gan.objectives.reduction import StageWeights, geometric, weighted_mean


def expected(name: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Discriminator's and generator's loss, written with logarithms and maxima."""
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    return {
        "hinge": (torch.maximum(zero, one - real) + torch.maximum(zero, one + fake), -fake),
        "non_saturating": (-torch.log(torch.sigmoid(real)) - torch.log(1 - torch.sigmoid(fake)),
                           -torch.log(torch.sigmoid(fake))),
        "least_squares": (0.5 * (real - 1) ** 2 + 0.5 * fake**2, 0.5 * (fake - 1) ** 2),
        "wasserstein": (fake - real, -fake),
        "relativistic": (-torch.log(torch.sigmoid(real - fake)), -torch.log(torch.sigmoid(fake - real))),
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas(name: str) -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 50, 3, dtype=torch.float64).mul(2).unbind()
    discriminator, generator = expected(name, real, fake)
    loss = LOSSES[name]()
    torch.testing.assert_close(loss.discriminator_loss(real, fake), discriminator)
    torch.testing.assert_close(loss.generator_loss(fake, real), generator)


def test_the_targets_of_least_squares_give_the_pearson_divergence() -> None:
    # Mao et al. 2017, section 3.2: for the best D, ½ E_p[(D − c)²] + ½ E_q[(D − c)²] = ½ χ²(p + q ‖ 2q).
    p, q = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=torch.float64)  # reals, fakes, over three images
    loss = LeastSquares(fake_target=-1.0, real_target=1.0, generator_target=0.0)
    scores = ((p - q) / (p + q)).requires_grad_()
    fixed = scores.detach()
    mean = (p * loss.discriminator_loss(scores, fixed) + q * loss.discriminator_loss(fixed, scores)).sum()
    (gradient,) = torch.autograd.grad(mean, scores)
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64))  # the best D
    found = ((p + q) * loss.generator_loss(fixed)).sum()
    torch.testing.assert_close(found, ((2 * q - p - q).square() / (p + q)).sum() / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_finite_for_extreme_scores(name: str) -> None:
    scores = torch.tensor([[-1e4, 1e4, 0.0]])
    loss = LOSSES[name]()
    assert loss.discriminator_loss(scores, -scores).isfinite().all()
    assert loss.generator_loss(scores, scores).isfinite().all()


def test_stage_weights_average_the_losses_not_the_scores() -> None:
    losses = torch.tensor([[1.0, 10.0, 100.0], [3.0, 30.0, 300.0]])
    assert weighted_mean(losses, StageWeights(torch.ones(3))()).item() == pytest.approx((2 + 20 + 200) / 3)
    assert weighted_mean(losses, StageWeights(torch.tensor([2.0, 2.0, 0.0]))()).item() == pytest.approx(11)


def test_geometric_weights_halve_and_sum_to_one() -> None:
    assert StageWeights(geometric(3))().tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_learned_weights_start_uniform_and_lean_to_the_smallest_loss() -> None:
    weights = StageWeights(torch.ones(3), learned=True)
    assert weights().tolist() == pytest.approx([1 / 3] * 3)
    optimizer = torch.optim.SGD(weights.parameters(), lr=1.0)
    for _ in range(5):
        optimizer.zero_grad()
        weighted_mean(torch.tensor([[3.0, 1.0, 2.0]]), weights()).backward()
        optimizer.step()
    first, second, third = weights().tolist()
    assert second > third > first
    assert first + second + third == pytest.approx(1)
