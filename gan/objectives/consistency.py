"""Penalties on how much a player's output changes where it should not."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gan.objectives.augmentation import flip, translate
from gan.objectives.regularizers import Regularizer, StepBatch, at_least_float32


class BalancedConsistency(Regularizer):
    """bCR: E‖D(x) − D(T(x))‖² + E‖D(G(z)) − D(T(G(z)))‖² (Zhao et al. 2020, arXiv:2002.04724, algorithm 1).

    T flips with probability ½ and shifts by up to `shift` of the side. Squares are averaged over stages with λ.

    Args:
        shift: share of the side.
    """

    def __init__(self, shift: float = 0.125) -> None:
        super().__init__()
        if not 0 <= shift < 1:
            raise ValueError(f"shift: {shift} found, 0 to 1 accepted")
        self.shift = shift

    def discriminator_penalty(self, batch: StepBatch) -> Tensor:
        images = torch.cat([batch.real_images, batch.fake_images.detach().to(batch.real_images.dtype)])
        moved = translate(flip(images, batch.random), batch.random, self.shift)
        labels = None
        if batch.real_labels is not None and batch.fake_labels is not None:
            labels = torch.cat([batch.real_labels, batch.fake_labels])
        assert batch.real_features is not None
        with batch.autocast():
            moved_features = batch.discriminator.features_of_both(moved, len(batch.real_images))
            features = torch.cat([batch.real_features, batch.fake_features])
        # The factor makes it the sum of both halves' means.
        return 2 * squared_differences(batch, features, moved_features, labels).mean()


def squared_differences(batch: StepBatch, features: Tensor, moved: Tensor, labels: Tensor | None) -> Tensor:
    """Σ_i λ_i (D_i − D_i')² of every image, `(B,)`, of its features `(B, F)` and those of the moved one.

    The head scores both here, so that one whose scores in a step depend on the whole batch is compared to itself.
    """
    with batch.autocast():
        head = batch.discriminator.head
        difference = at_least_float32(head(features, labels)) - at_least_float32(head(moved, labels))
    return difference.square() @ batch.stage_weights


class LatentConsistency(Regularizer):
    """zCR: D should not see a small move of z, G should show it (Zhao et al. 2020, arXiv:2002.04724, section 3.2).

    D: E‖D(G(z)) − D(G(z + δ))‖²; G: −`generator_share` · E‖G(z) − G(z + δ)‖², its mean over pixels; δ ~ N(0, σ²).

    Args:
        sigma: σ.
        generator_share: weight of the generator's term relative to the discriminator's.
    """

    def __init__(self, sigma: float = 0.05, generator_share: float = 0.1) -> None:
        super().__init__()
        if sigma <= 0 or generator_share < 0:
            raise ValueError(f"sigma: {sigma} with generator_share {generator_share} found, positive ones accepted")
        self.sigma = sigma
        self.generator_share = generator_share

    def discriminator_penalty(self, batch: StepBatch) -> Tensor:
        with batch.autocast():
            with torch.no_grad():
                moved = batch.generator(self._moved(batch), batch.fake_labels).to(batch.fake_images.dtype)
            moved_features = batch.discriminator.features(batch.augment(moved))
        return squared_differences(batch, batch.fake_features, moved_features, batch.fake_labels).mean()

    def generator_penalty(self, batch: StepBatch) -> Tensor:
        with batch.autocast():
            moved = batch.generator(self._moved(batch), batch.fake_labels)
            here = batch.generator(batch.latents, batch.fake_labels)  # The batch's fakes may have been augmented.
        return -self.generator_share * (at_least_float32(here) - at_least_float32(moved)).square().mean()

    def _moved(self, batch: StepBatch) -> Tensor:
        z = batch.latents
        return z + self.sigma * torch.randn(z.shape, generator=batch.random, device=z.device, dtype=z.dtype)


class LeCam(Regularizer):
    """E(D(x) − α_F)² + E(D(G(z)) − α_R)², α the running means of the other side (Tseng et al. 2021, arXiv:2104.03310).

    Every stage has running means of its own; they start at the first batch's.

    Args:
        decay: of the running means, in [0, 1).
    """

    real_mean: Tensor
    fake_mean: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay: {decay} found, 0 to 1 accepted")
        self.decay = decay
        self.register_buffer("real_mean", torch.zeros(0))
        self.register_buffer("fake_mean", torch.zeros(0))

    def discriminator_penalty(self, batch: StepBatch) -> Tensor:
        assert batch.real_scores is not None
        real, fake, means = batch.real_scores, batch.fake_scores, (self.real_mean, self.fake_mean)
        if not self.real_mean.numel():
            means = real.detach().mean(0), fake.detach().mean(0)
        penalty = (real - means[1]).square() + (fake - means[0]).square()
        return (penalty @ batch.stage_weights).mean()

    def follow(self, means: Mapping[str, Tensor]) -> None:
        real, fake = means["scores/real"], means["scores/fake"]
        if not self.real_mean.numel():
            self.real_mean, self.fake_mean = real.clone(), fake.clone()
        else:  # in place, for a captured step reads them where they are
            self.real_mean.lerp_(real, 1 - self.decay)
            self.fake_mean.lerp_(fake, 1 - self.decay)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: object) -> None:
        for name in ("real_mean", "fake_mean"):  # They are empty before the first batch.
            mine, theirs = getattr(self, name), state_dict[prefix + name]
            if mine.shape != theirs.shape:
                setattr(self, name, torch.zeros_like(theirs, device=mine.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
