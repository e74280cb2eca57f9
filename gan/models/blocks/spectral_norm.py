"""Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957) with the power iteration outside the forward pass.

The estimate σ = uᵀ W v moves only in `update_spectral_norms`, which the training step calls once per optimiser step;
every forward pass in between divides by the same σ. So one backward pass may span several forward passes, nothing
changes in place under `torch.compile`, and evaluating a network leaves it as it was.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gan.models.blocks.precision import without_autocast


class SpectralNorm(nn.Module):
    """The singular vectors of one weight, seen as a matrix `(out, in · kernel)`; calling it returns weight / σ."""

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", normalize(matrix.new_empty(matrix.shape[0]).normal_(), dim=0))
        self.register_buffer("v", normalize(matrix.new_empty(matrix.shape[1]).normal_(), dim=0))
        if not weight.is_meta:  # which has a shape and no numbers
            self.update(weight, iterations=15)

    def forward(self, weight: Tensor) -> Tensor:
        with without_autocast(weight):
            sigma = torch.dot(self.u, torch.mv(weight.flatten(1), self.v))
            return weight / sigma

    @torch.no_grad()
    def update(self, weight: Tensor, iterations: int = 1) -> None:
        """Take power iterations towards the leading singular vectors of `weight`."""
        matrix = weight.flatten(1)
        with without_autocast(weight):
            for _ in range(iterations):
                self.v.copy_(normalize(torch.mv(matrix.T, self.u), dim=0))
                self.u.copy_(normalize(torch.mv(matrix, self.v), dim=0))


def update_spectral_norms(network: nn.Module) -> None:
    """One power iteration for every spectrally normalised weight of `network`."""
    for module in network.modules():
        norm = getattr(module, "spectral_norm", None)
        if isinstance(norm, SpectralNorm):
            norm.update(module.get_parameter("weight"))
