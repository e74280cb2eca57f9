"""Penalties on the gradient of the score with respect to images.

With several stages the score is Σ_i λ_i D_i: by Jensen its squared gradient is at most the stages' mean one, and it
costs one backward pass instead of N. Exact penalties differentiate the discriminator twice: in float32 whatever
autocast says, and never compiled, because compiled graphs cannot be differentiated twice. Finite differences are one
more forward pass, as every other is.
"""

from typing import Literal

import torch
from torch import Tensor

from gan.objectives.regularizers import Regularizer, StepBatch, at_least_float32


class _SquaredGradient(Regularizer):
    """½ E‖∇_x D‖² on images of one kind.

    Args:
        method: `exact`, by a second derivative, or `finite_difference`: ½ E(D(x + σε) − D(x))²/σ² with ε ~ N(0, I)
            (Lin et al. 2025, arXiv:2501.08316), one forward pass more. D(x) is the step's own.
        sigma: σ, in units of images in [−1, 1]. The error is O(σ²), and grows again where rounding does: see
            `benchmarks/penalties.py`.
    """

    def __init__(self, method: Literal["exact", "finite_difference"] = "exact", sigma: float = 0.01) -> None:
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"sigma: {sigma} found, a positive one accepted")
        self.method = method
        self.sigma = sigma

    def _penalty(self, batch: StepBatch, images: Tensor, features: Tensor | None, labels: Tensor | None) -> Tensor:
        if self.method == "exact":
            return squared_gradients(batch, images, labels).mean() / 2
        assert features is not None
        return finite_differences(batch, images, features, labels, self.sigma).mean() / 2


class R1(_SquaredGradient):
    """½ E‖∇_x D(x)‖² on real images (Mescheder, Geiger, Nowozin 2018, arXiv:1801.04406, equation 9)."""

    def discriminator_penalty(self, batch: StepBatch) -> Tensor:
        return self._penalty(batch, batch.real_images, batch.real_features, batch.real_labels)


class R2(_SquaredGradient):
    """½ E‖∇_x D(G(z))‖² on fakes (Mescheder, Geiger, Nowozin 2018, arXiv:1801.04406, equation 10)."""

    def discriminator_penalty(self, batch: StepBatch) -> Tensor:
        return self._penalty(batch, batch.fake_images.detach(), batch.fake_features, batch.fake_labels)


class GradientPenalty(Regularizer):
    """E(‖∇_x D(x̂)‖ − 1)² between reals and fakes (Gulrajani et al. 2017, arXiv:1704.00028, equation 3).

    x̂ = εx + (1 − ε)G(z) with ε uniform on [0, 1]; labels, where there are any, are the reals'.
    """

    def discriminator_penalty(self, batch: StepBatch) -> Tensor:
        real, fake = batch.real_images, batch.fake_images.detach().to(batch.real_images.dtype)
        share = torch.rand(len(real), 1, 1, 1, generator=batch.random, device=real.device, dtype=real.dtype)
        squares = squared_gradients(batch, fake.lerp(real, share), batch.real_labels)
        # The square root has an infinite slope at 0.
        return ((squares + 1e-12).sqrt() - 1).square().mean()


def squared_gradients(batch: StepBatch, images: Tensor, labels: Tensor | None) -> Tensor:
    """‖∇_x Σ_i λ_i D_i(x)‖² of every image, `(B,)`, differentiable."""
    images = at_least_float32(images.detach()).requires_grad_()
    with torch.autocast(images.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
        scores = batch.mean_score(images, labels)
        (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def finite_differences(
    batch: StepBatch, images: Tensor, features: Tensor, labels: Tensor | None, sigma: float
) -> Tensor:
    """(D(x + σε) − D(x))²/σ² of every image, `(B,)`, ε ~ N(0, I): in expectation ‖∇_x D(x)‖² + O(σ²).

    `features` are those of `images`, from the step's own pass. The head scores both here, so that one whose scores in a
    step depend on the whole batch is compared to itself.
    """
    noise = torch.randn(images.shape, generator=batch.random, device=images.device, dtype=images.dtype)
    with batch.autocast():
        moved = batch.discriminator.head(batch.discriminator.features(images + sigma * noise), labels)
        still = batch.discriminator.head(features, labels)
    difference = at_least_float32(moved) - at_least_float32(still)
    return ((difference @ batch.stage_weights) / sigma).square()
