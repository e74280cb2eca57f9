"""Adversarial losses, one value a sample and stage: scores `(B, N)` → losses `(B, N)`.

Each is a pair `discriminator_loss(real_scores, fake_scores)`, `generator_loss(fake_scores, real_scores)`; real scores
are given to the generator's loss for the sake of relativistic losses and ignored by the others. Stage weights and the
mean over the batch are applied in one place, `weighted_mean` in `stage_weights.py`.
"""

from typing import Protocol

from torch import Tensor
from torch.nn import functional as F


class Loss(Protocol):
    """What the training step needs of an adversarial loss; whether the generator's reads the real scores."""

    relativistic: bool

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor: ...

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor: ...


class Hinge:
    """max(0, 1 − D(x)) + max(0, 1 + D(G(z))); G: −D(G(z)) (Lim & Ye 2017; Miyato et al. 2018)."""

    relativistic = False

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return F.relu(1 - real_scores) + F.relu(1 + fake_scores)

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return -fake_scores


class NonSaturating:
    """−log σ(D(x)) − log(1 − σ(D(G(z)))); G: −log σ(D(G(z))) (Goodfellow et al. 2014)."""

    relativistic = False

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return F.softplus(-real_scores) + F.softplus(fake_scores)

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return F.softplus(-fake_scores)


class LeastSquares:
    """½(D(x) − 1)² + ½D(G(z))²; G: ½(D(G(z)) − 1)² (Mao et al. 2017, equation 9)."""

    relativistic = False

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return ((real_scores - 1).square() + fake_scores.square()) / 2

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return (fake_scores - 1).square() / 2


class Wasserstein:
    """D(G(z)) − D(x); G: −D(G(z)) (Arjovsky et al. 2017); the discriminator must be Lipschitz by other means."""

    relativistic = False

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return fake_scores - real_scores

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return -fake_scores


class Relativistic:
    """−log σ(D(x) − D(G(z))); G: −log σ(D(G(z)) − D(x)), pair by pair (Jolicoeur-Martineau 2018; R3GAN, equation 2).

    Made to go with `r1` and `r2` (Huang et al. 2024, arXiv:2501.05441).
    """

    relativistic = True

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return F.softplus(fake_scores - real_scores)

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        assert real_scores is not None
        return F.softplus(real_scores - fake_scores)


LOSSES: dict[str, type[Loss]] = {
    "hinge": Hinge,
    "non_saturating": NonSaturating,
    "least_squares": LeastSquares,
    "wasserstein": Wasserstein,
    "relativistic": Relativistic,
}
