"""Heads that learn along which directions to look: rivals of the cascade, and a cascade of them.

A slicing head has two kinds of parameters with objectives of their own (SAN: Takida et al. 2024, arXiv:2301.12811). The
adversarial loss trains the features to differ along given unit directions ω; the directions are trained to be where the
features, as they are, differ most:

    max_ω  E_real[φ(<ω, v>)] − E_fake[φ(<ω, v>)],    v held fixed.

`forward` gives the scores, with the directions held fixed; `direction_scores` gives the same slices with the features
held fixed. The discriminator's step adds the mean of fake minus real direction scores to its loss.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import Embedding, Linear
from gan.models.blocks.precision import without_autocast
from gan.models.heads.base import Cascade
from gan.models.heads.cascade import inner_products, rejected_directions
from gan.models.heads.decorrelation import without_earlier
from gan.models.heads.interface import Head
from gan.models.heads.stages import curved


class SlicedCascade(Cascade):
    """N slices, each along a direction of its own in what is perpendicular to the earlier ones.

    D_i = s_i φ_i(<p_i, v>) + b_i with orthonormal p_i; φ_1(t) = t and φ_i(t) = |t| for later stages. Once p_1 points
    along the difference of the means, all that is perpendicular to it has equal means, and a second linear slice would
    see nothing; the absolute value sees a difference of spread. With one stage this is SAN. The derivation is in
    docs/cascading_rejection.md. It is the cascade of `magnitude` stages with another way to train its vectors; its
    scales are not bounded by 1, as SAN's is not.

    With labels the directions are those of the sample's class: w_i + e_i(y) takes the place of w_i, so that p_1(y) …
    p_N(y) are orthonormal for every class y. Scales and biases are shared by all.

    Args:
        in_features: F, at least `stages`.
        stages: N.
        num_classes: classes of the labels, or None for an unconditional head.
        rejection: `orthogonal` as above; `decorrelated` takes unit directions ω_i and <ω_i, v_i> for <p_i, v>, with the
            v_i of `decorrelation.py`; `none` <ω_i, v>, the control without rejection.
        stage: φ of the later stages, as of `CascadingRejection`.
    """

    learns_directions = True
    rejections = ("orthogonal", "decorrelated", "none")
    kinds = ("linear", "magnitude", "square")

    def __init__(
        self,
        in_features: int,
        stages: int = 3,
        num_classes: int | None = None,
        rejection: Literal["orthogonal", "decorrelated", "none"] = "orthogonal",
        stage: Literal["linear", "magnitude", "square"] = "magnitude",
    ) -> None:
        super().__init__(in_features, stages, rejection, stage)
        self.curves = None  # scale and bias are of all stages here
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.empty(stages, in_features))
        nn.init.orthogonal_(self.weight)
        self.scale = nn.Parameter(torch.ones(stages))
        self.bias = nn.Parameter(torch.zeros(stages))
        tables = 0 if num_classes is None else stages
        self.embeddings = nn.ModuleList(Embedding(num_classes or 0, in_features) for _ in range(tables))

    def forward(self, features: Tensor, labels: Tensor | None = None, of_batch: bool = False) -> Tensor:
        """Scores `(B, N)`; the directions receive no gradient."""
        with without_autocast(features):
            return self.scale * curved(self.coordinates(features, labels, of_batch), self.stage) + self.bias

    def coordinates(self, features: Tensor, labels: Tensor | None = None, of_batch: bool = False) -> Tensor:
        """<p_i, v> or <ω_i, v_i>, `(B, N)`."""
        if self.rejection != "orthogonal":
            return super().coordinates(features, labels, of_batch)
        with without_autocast(features):  # the directions are orthonormal as they are
            return inner_products(features.to(self.weight.dtype), self.effective_weight(labels))

    def direction_scores(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Slices `(B, N)` that only the directions receive a gradient from, each from its own."""
        with without_autocast(features):
            features = features.detach().to(self.weight.dtype)
            slices = inner_products(features, self.directions(labels))
            if self.rejection == "decorrelated":
                slices = without_earlier(slices)
            return self.scale.detach() * curved(slices, self.stage)

    def effective_weight(self, labels: Tensor | None = None) -> Tensor:
        """The directions in force, held fixed: `(N, F)`, or `(B, N, F)` when conditional."""
        return self.directions(labels).detach()

    def directions(self, labels: Tensor | None = None) -> Tensor:
        """Unit vectors: w_i, less its projection on the earlier ones, which are held fixed, if those are rejected."""
        weight: Tensor = self.weight
        if self.num_classes is not None:
            weight = weight + torch.stack([embedding(labels) for embedding in self.embeddings], dim=1)
        if self.rejection != "orthogonal":
            return F.normalize(weight, dim=-1)
        with torch.no_grad():
            basis = F.normalize(rejected_directions(weight, "orthogonal"), dim=-1)
        overlaps = (weight @ basis.mT).tril(-1)  # (N, N) or (B, N, N): <w_i, p_j> for j < i
        return F.normalize(weight - overlaps @ basis, dim=-1)


class SlicingHead(SlicedCascade):
    """SAN's head: one direction, D = s <ω, v> + b (Takida et al. 2024, arXiv:2301.12811, section 5).

    With labels ω(y) = (w + e(y)) / ‖w + e(y)‖: a direction a class.

    Args:
        in_features: F.
        num_classes: classes of the labels, or None for an unconditional head.
    """

    def __init__(self, in_features: int, num_classes: int | None = None) -> None:
        super().__init__(in_features, 1, num_classes)


class MultidimensionalCritic(Head):
    """The norm of an n-dimensional critic, D = ‖W v‖ + b (Dai, Hang, Srivastava, arXiv:2109.03378).

    With the Wasserstein loss this is their maximal p-centrality discrepancy for p = 1; b gives other losses their zero.
    Their SRVT block is not part of it.

    Args:
        in_features: F.
        dimensions: n.
        spectral_norm: divide W by its largest singular value, so that D is 1-Lipschitz in v.

    Raises:
        ValueError: `dimensions` below 1.
    """

    def __init__(self, in_features: int, dimensions: int = 16, *, spectral_norm: bool = True) -> None:
        super().__init__()
        if dimensions < 1:
            raise ValueError(f"dimensions: {dimensions} found, 1 or more accepted")
        self.critic = Linear(in_features, dimensions, bias=False, spectral_norm=spectral_norm)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores `(B, 1)`."""
        with without_autocast(features):
            vectors = self.critic(features.to(self.bias.dtype))
            # a norm whose gradient at 0 is 0, not NaN
            return (vectors.square().sum(1, keepdim=True) + torch.finfo(vectors.dtype).tiny).sqrt() + self.bias
