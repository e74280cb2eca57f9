"""Terms that read the backbone's features or a player's weights rather than the scores."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.objectives.augmentation import flip, translate
from gan.objectives.regularizers import Regularizer, StepBatch, at_least_float32


class FeatureMatching(Regularizer):
    """G: ‖E v(x) − E v(G(z))‖² / F on the backbone's features (Salimans et al. 2016, arXiv:1606.03498, section 3.1)."""

    def generator_penalty(self, batch: StepBatch) -> Tensor:
        real, fake = _features_of_both(batch)
        return (real.mean(0) - fake.mean(0)).square().mean()


class MomentMatching(Regularizer):
    """G: (‖Δμ‖² + ‖Δσ²‖²) / F, Δ of the mean and the variance of each of the backbone's features, real less fake.

    That of generative feature matching networks (dos Santos et al. 2019, arXiv:1904.02762, equation 2), over the batch
    instead of a moving average. With `objective.loss: features_only` it is all that the generator hears: what a head
    that sees no more than two moments of the features can at best reach.
    """

    def generator_penalty(self, batch: StepBatch) -> Tensor:
        real, fake = _features_of_both(batch)
        means = real.mean(0) - fake.mean(0)
        variances = real.var(0, correction=0) - fake.var(0, correction=0)
        return means.square().mean() + variances.square().mean()


def _features_of_both(batch: StepBatch) -> tuple[Tensor, Tensor]:
    """Of a generator's step: features of the real images, as constants, and of the fakes."""
    real = batch.real_features
    if real is None:
        with batch.autocast(), torch.no_grad():
            real = batch.discriminator.features(batch.real_images)
    return at_least_float32(real.detach()), at_least_float32(batch.fake_features)


class Contrastive(Regularizer):
    """SimCSE on real images (Gao, Yao, Chen 2021, arXiv:2104.08821, equation 1).

    −log exp(cos(h_i, h_i⁺)/τ) / Σ_j exp(cos(h_i, h_j⁺)/τ), h and h⁺ two views of an image in the backbone's features.

    Args:
        temperature: τ.
        view: what makes two views: `dropout` on the features as in SimCSE, or `augmentation`, a flip and a shift.
        dropout: probability of the first.
    """

    def __init__(
        self, temperature: float = 0.05, view: Literal["dropout", "augmentation"] = "dropout", dropout: float = 0.1
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature: {temperature} found, a positive one accepted")
        if not 0 < dropout < 1:
            raise ValueError(f"dropout: {dropout} found, between 0 and 1 accepted")
        self.temperature = temperature
        self.view = view
        self.dropout = dropout

    def discriminator_penalty(self, batch: StepBatch) -> Tensor:
        images = batch.real_images
        assert batch.real_features is not None
        features = at_least_float32(batch.real_features)
        if self.view == "dropout":
            first, second = (self._drop(features, batch.random) for _ in range(2))
        else:
            moved = translate(flip(images, batch.random), batch.random, 0.125)
            with batch.autocast():
                first, second = features, at_least_float32(batch.discriminator.features(moved))
        cosines = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T
        return F.cross_entropy(cosines / self.temperature, torch.arange(len(images), device=images.device))

    def _drop(self, features: Tensor, random: torch.Generator) -> Tensor:
        kept = torch.rand(features.shape, generator=random, device=features.device) >= self.dropout
        return features * kept / (1 - self.dropout)


class Orthogonal(Regularizer):
    """Σ_W ‖W Wᵀ ⊙ (1 − I)‖² over matrices and kernels (Brock, Donahue, Simonyan 2019, arXiv:1809.11096, equation 3).

    Rows are output channels. Normalised weights count before normalisation.

    Args:
        player: whose weights; BigGAN regularises the generator's.
    """

    def __init__(self, player: Literal["generator", "discriminator", "both"] = "generator") -> None:
        super().__init__()
        self.player = player

    def discriminator_penalty(self, batch: StepBatch) -> Tensor | None:
        return None if self.player == "generator" else _off_diagonal_energy(batch.discriminator.modules())

    def generator_penalty(self, batch: StepBatch) -> Tensor | None:
        return None if self.player == "discriminator" else _off_diagonal_energy(batch.generator.modules())


def _off_diagonal_energy(modules: Iterator[nn.Module]) -> Tensor:
    energies = []
    for module in modules:
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(module, nn.ConvTranspose2d)  # whose weight is (in, out, k, k)
            rows = (module.weight.transpose(0, 1) if transposed else module.weight).flatten(1)
            gram = rows @ rows.T
            energies.append(gram.square().sum() - gram.diagonal().square().sum())
    return torch.stack(energies).sum()


class Classification(Regularizer):
    """AC-GAN: cross-entropy of the head's class logits, on reals and fakes for D and on fakes for G (arXiv:1610.09585,
    eq. 3).

    For heads that give class logits, such as `auxiliary_classifier`.

    Args:
        fakes: whether D learns the classes of fakes too, as published; many implementations leave them out, for early
            fakes show no class.
    """

    def __init__(self, fakes: bool = True) -> None:
        super().__init__()
        self.fakes = fakes

    def discriminator_penalty(self, batch: StepBatch) -> Tensor:
        reals = self._cross_entropy(batch, batch.real_features, batch.real_labels)
        return reals + self.generator_penalty(batch) if self.fakes else reals

    def generator_penalty(self, batch: StepBatch) -> Tensor:
        return self._cross_entropy(batch, batch.fake_features, batch.fake_labels)

    def _cross_entropy(self, batch: StepBatch, features: Tensor | None, labels: Tensor | None) -> Tensor:
        assert features is not None and labels is not None
        logits: Tensor = batch.discriminator.head.class_logits(features)
        return F.cross_entropy(logits, labels)
