"""Penalties on how much a player's output changes where it should not."""

import torch
from torch import Tensor

from gan.objectives.augmentation import flip, translate
from gan.objectives.regularizers import Regularizer, Round


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

    def discriminator_penalty(self, seen: Round) -> Tensor:
        images = torch.cat([seen.real_images, seen.fake_images.detach().to(seen.real_images.dtype)])
        moved = translate(flip(images, seen.random), seen.random, self.shift)
        labels = None
        if seen.real_labels is not None and seen.fake_labels is not None:
            labels = torch.cat([seen.real_labels, seen.fake_labels])
        assert seen.real_scores is not None
        scores = torch.cat([seen.real_scores, seen.fake_scores])
        with seen.autocast():
            moved_scores = seen.discriminator(moved, labels)
        return 2 * ((scores - moved_scores).square() @ seen.stage_weights).mean()  # the sum of both halves' means


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

    def discriminator_penalty(self, seen: Round) -> Tensor:
        with seen.autocast():
            with torch.no_grad():
                moved = seen.generator(self._moved(seen), seen.fake_labels)
            scores = seen.discriminator(moved, seen.fake_labels)
        return ((seen.fake_scores - scores).square() @ seen.stage_weights).mean()

    def generator_penalty(self, seen: Round) -> Tensor:
        with seen.autocast():
            moved = seen.generator(self._moved(seen), seen.fake_labels)
            here = seen.generator(seen.latents, seen.fake_labels)  # `fake_images` may have been augmented
        return -self.generator_share * (here.float() - moved.float()).square().mean()

    def _moved(self, seen: Round) -> Tensor:
        z = seen.latents
        return z + self.sigma * torch.randn(z.shape, generator=seen.random, device=z.device, dtype=z.dtype)


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

    def discriminator_penalty(self, seen: Round) -> Tensor:
        assert seen.real_scores is not None
        real, fake = seen.real_scores, seen.fake_scores
        if not self.real_mean.numel():
            self.real_mean, self.fake_mean = real.detach().mean(0), fake.detach().mean(0)
        penalty = (real - self.fake_mean).square() + (fake - self.real_mean).square()
        self.real_mean = self.real_mean.lerp(real.detach().mean(0), 1 - self.decay)
        self.fake_mean = self.fake_mean.lerp(fake.detach().mean(0), 1 - self.decay)
        return (penalty @ seen.stage_weights).mean()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: object) -> None:
        for name in ("real_mean", "fake_mean"):  # empty before the first batch
            setattr(self, name, torch.zeros_like(state_dict[prefix + name], device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
