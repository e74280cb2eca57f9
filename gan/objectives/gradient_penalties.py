"""Penalties on the gradient of the score with respect to images; all differentiate the discriminator twice.

With several stages the score is Σ_i λ_i D_i: by Jensen its squared gradient is at most the stages' mean one, and it
costs one backward pass instead of N. Arithmetic is float32 whatever autocast says, and never compiled, because compiled
graphs cannot be differentiated twice.
"""

import torch
from torch import Tensor

from gan.objectives.regularizers import Regularizer, StepBatch, at_least_float32


class R1(Regularizer):
    """½ E‖∇_x D(x)‖² on real images (Mescheder, Geiger, Nowozin 2018, arXiv:1801.04406, equation 9)."""

    def discriminator_penalty(self, batch: StepBatch) -> Tensor:
        return squared_gradients(batch, batch.real_images, batch.real_labels).mean() / 2


class R2(Regularizer):
    """½ E‖∇_x D(G(z))‖² on fakes (Mescheder, Geiger, Nowozin 2018, arXiv:1801.04406, equation 10)."""

    def discriminator_penalty(self, batch: StepBatch) -> Tensor:
        return squared_gradients(batch, batch.fake_images.detach(), batch.fake_labels).mean() / 2


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
