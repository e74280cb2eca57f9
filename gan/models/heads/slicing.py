"""Heads that learn along which directions to look: rivals of the cascade, and a cascade of them.

A slicing head has two kinds of parameters with objectives of their own (SAN: Takida et al. 2024, arXiv:2301.12811). The
adversarial loss trains the features to differ along given unit directions ω; the directions are trained to be where the
features, as they are, differ most:

    max_ω  E_real[φ(<ω, v>)] − E_fake[φ(<ω, v>)],    v held fixed.

`forward` gives the scores, with the directions held fixed; `direction_scores` gives the same slices with the features
held fixed. The discriminator's step adds the mean of fake minus real direction scores to its loss.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import Linear
from gan.models.blocks.precision import without_autocast
from gan.models.heads.cascade import rejected_directions
from gan.models.heads.interface import Head


class SlicedCascade(Head):
    """N slices, each a direction of its own in what is perpendicular to the earlier ones.

    D_i = s_i φ_i(<p_i, v>) + b_i with orthonormal p_i; φ_1(t) = t and φ_i(t) = |t| for later stages. Once p_1 points
    along the difference of the means, all that is perpendicular to it has equal means, and a second linear slice would
    see nothing; the absolute value sees a difference of spread. With one stage this is SAN. The derivation is in
    docs/cascading_rejection.md.

    Args:
        in_features: F, at least `stages`.
        stages: N.
    """

    learns_directions = True

    def __init__(self, in_features: int, stages: int = 3) -> None:
        super().__init__()
        if not 1 <= stages <= in_features:
            raise ValueError(f"stages: {stages} found, 1 to {in_features} (the number of features) accepted")
        self.stages = stages
        self.weight = nn.Parameter(torch.empty(stages, in_features))
        nn.init.orthogonal_(self.weight)
        self.scale = nn.Parameter(torch.ones(stages))
        self.bias = nn.Parameter(torch.zeros(stages))

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores `(B, N)`; the directions receive no gradient."""
        with without_autocast(features):
            slices = features.to(self.weight.dtype) @ self.directions().detach().T
            return self.scale * _later_magnitudes(slices) + self.bias

    def direction_scores(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Slices `(B, N)` that only the directions receive a gradient from, each from its own."""
        with without_autocast(features):
            slices = features.detach().to(self.weight.dtype) @ self.directions().T
            return self.scale.detach() * _later_magnitudes(slices)

    def directions(self) -> Tensor:
        """Orthonormal p_i, `(N, F)`: w_i less its projection on the earlier ones, which are held fixed, normalised."""
        with torch.no_grad():
            basis = F.normalize(rejected_directions(self.weight, "orthogonal"), dim=1)
        overlaps = (self.weight @ basis.T).tril(-1)  # (N, N): <w_i, p_j> for j < i
        return F.normalize(self.weight - overlaps @ basis, dim=1)


class SlicingHead(SlicedCascade):
    """SAN's head: one direction, D = s <ω, v> + b (Takida et al. 2024, arXiv:2301.12811, section 5).

    Args:
        in_features: F.
    """

    def __init__(self, in_features: int) -> None:
        super().__init__(in_features, stages=1)


class MultidimensionalCritic(Head):
    """The norm of an n-dimensional critic, D = ‖W v‖ + b (Dai, Hang, Srivastava, arXiv:2109.03378).

    With the Wasserstein loss this is their maximal p-centrality discrepancy for p = 1; b gives other losses their zero.
    Their SRVT block is not part of it.

    Args:
        in_features: F.
        dimensions: n.
        spectral_norm: divide W by its largest singular value, so that D is 1-Lipschitz in v.
    """

    def __init__(self, in_features: int, dimensions: int = 16, *, spectral_norm: bool = True) -> None:
        super().__init__()
        self.critic = Linear(in_features, dimensions, bias=False, spectral_norm=spectral_norm)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores `(B, 1)`."""
        with without_autocast(features):
            vectors = self.critic(features.to(self.bias.dtype))
            # a norm whose gradient at 0 is 0, not NaN
            return (vectors.square().sum(1, keepdim=True) + torch.finfo(vectors.dtype).tiny).sqrt() + self.bias


def _later_magnitudes(slices: Tensor) -> Tensor:
    """φ: the first column as it is, the others' magnitudes."""
    return torch.cat([slices[:, :1], slices[:, 1:].abs()], dim=1)
