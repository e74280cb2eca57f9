"""Adversarial losses, one value a sample and stage: scores `(B, N)` → losses `(B, N)`.

Each is a pair `discriminator_loss(real_scores, fake_scores)`, `generator_loss(fake_scores, real_scores)`; real scores
are given to the generator's loss for the sake of relativistic losses and ignored by the others. Stage weights and the
mean over the batch are applied in one place, `weighted_mean` in `reduction.py`.
"""

import math

from torch import Tensor
from torch.nn import functional as F


class Loss:
    """What every adversarial loss has: a loss for each player. Keywords of the constructor are its options."""

    relativistic: bool = False  # whether the generator's loss reads the real scores
    boundary: float = 0.0  # the score of what is as likely real as fake; NaN where scores have no zero

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """What the discriminator minimises, `(B, N)` like the scores."""
        raise NotImplementedError

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        """What the generator minimises, `(B, N)` like the scores."""
        raise NotImplementedError


class Hinge(Loss):
    """max(0, 1 − D(x)) + max(0, 1 + D(G(z))); G: −D(G(z)) (Lim & Ye 2017; Miyato et al. 2018)."""

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return F.relu(1 - real_scores) + F.relu(1 + fake_scores)

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return -fake_scores


class FeaturesOnly(Hinge):
    """The hinge loss of the discriminator alone; G: 0.

    The discriminator learns features, the generator hears of them through `objective.regularizers` and of no score:
    the control of heads that see what `moment_matching` compares, and with `feature_matching` that of Salimans et al.
    2016 (arXiv:1606.03498, section 3.1).
    """

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return 0 * fake_scores


class NonSaturating(Loss):
    """−log σ(D(x)) − log(1 − σ(D(G(z)))); G: −log σ(D(G(z))) (Goodfellow et al. 2014)."""

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return F.softplus(-real_scores) + F.softplus(fake_scores)

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return F.softplus(-fake_scores)


class LeastSquares(Loss):
    """½(D(x) − b)² + ½(D(G(z)) − a)²; G: ½(D(G(z)) − c)² (Mao et al. 2017, arXiv:1611.04076, equation 2).

    The defaults are their equation 9. With a = −1, b = 1, c = 0, their equation 8, the generator minimises the Pearson
    χ² divergence between p + p_G and 2 p_G.

    Args:
        fake_target: a, the score that the discriminator is to give to fakes.
        real_target: b, the score that it is to give to reals.
        generator_target: c, the score that the generator wants for its fakes.
    """

    def __init__(self, fake_target: float = 0.0, real_target: float = 1.0, generator_target: float = 1.0) -> None:
        if not fake_target < real_target:  # the other way round is the same game with scores negated
            raise ValueError(f"real_target: {real_target} found, above fake_target ({fake_target}) accepted")
        self.fake_target = fake_target
        self.real_target = real_target
        self.generator_target = generator_target
        self.boundary = (real_target + fake_target) / 2

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return ((real_scores - self.real_target).square() + (fake_scores - self.fake_target).square()) / 2

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return (fake_scores - self.generator_target).square() / 2


class Wasserstein(Loss):
    """D(G(z)) − D(x); G: −D(G(z)) (Arjovsky et al. 2017); the discriminator must be Lipschitz by other means."""

    boundary = math.nan

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return fake_scores - real_scores

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return -fake_scores


class Relativistic(Loss):
    """−log σ(D(x) − D(G(z))); G: −log σ(D(G(z)) − D(x)), pair by pair (Jolicoeur-Martineau 2018; R3GAN, equation 2).

    Made to go with `r1` and `r2` (Huang et al. 2024, arXiv:2501.05441).
    """

    relativistic = True
    boundary = math.nan

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return F.softplus(fake_scores - real_scores)

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        assert real_scores is not None
        return F.softplus(real_scores - fake_scores)


LOSSES: dict[str, type[Loss]] = {
    "hinge": Hinge,
    "features_only": FeaturesOnly,
    "non_saturating": NonSaturating,
    "least_squares": LeastSquares,
    "wasserstein": Wasserstein,
    "relativistic": Relativistic,
}
