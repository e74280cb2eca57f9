"""The cascade as a classifier's last layer: every stage scores K classes from what the stages before it left.

With W_i `(K, F)` the class vectors of stage i and v_1 = v, two readings of "remove what was scored":

    class   every class has a cascade of its own: equation (1) of `cascade.py` with w_i(k), the k-th row of W_i
    span    D_i = W_i v_i,  v_{i+1} = v_i − W_iᵀ (W_i W_iᵀ)⁻¹ D_i: the next stage is blind to all K scores of this one

For K = 1 both are cascading rejection (Shin, Yeo, Ko, arXiv:1911.10979).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from gan.models.blocks.precision import without_autocast
from gan.models.heads.cascade import unit_triangle

Removal = Literal["class", "span", "none"]


class CascadingClassifier(nn.Module):
    """Features `(B, F)` → logits `(B, stages, K)`; each stage's receive a cross-entropy of their own.

    Args:
        in_features: F, at least `stages · num_classes` where spans are removed, at least `stages` elsewhere.
        num_classes: K.
        stages: N; 1 is the usual linear layer.
        removal: what each stage removes before the next one looks; `none` is the control of N linear layers.
    """

    def __init__(self, in_features: int, num_classes: int, stages: int = 1, removal: Removal = "span") -> None:
        super().__init__()
        limit = in_features // num_classes if removal == "span" else in_features
        if not 1 <= stages <= limit:
            raise ValueError(f"stages: {stages} found, 1 to {limit} accepted with removal {removal!r}")
        self.stages = stages
        self.removal: Removal = removal
        self.weight = nn.Parameter(torch.empty(stages, num_classes, in_features))
        for table in self.weight.data:  # Each stage starts as a linear layer would.
            nn.init.xavier_uniform_(table)
        self.bias = nn.Parameter(torch.zeros(stages, num_classes))

    def forward(self, features: Tensor) -> Tensor:
        with without_autocast(features):
            features = features.to(self.weight.dtype)
            if self.removal == "class":
                logits = _class_logits(features, self.weight)
            elif self.removal == "span":
                logits = _span_logits(features, self.weight)
            else:
                logits = torch.einsum("bf,nkf->bnk", features, self.weight)
            return logits + self.bias


def _class_logits(features: Tensor, weight: Tensor) -> Tensor:
    """A unit-triangular solve for every class."""
    tables = weight.transpose(0, 1)  # (K, N, F)
    products = tables @ features.T  # (K, N, B)
    solved = torch.linalg.solve_triangular(
        unit_triangle(tables, "sequential"), products, upper=False, unitriangular=True
    )
    return solved.permute(2, 1, 0)


def _span_logits(features: Tensor, weight: Tensor) -> Tensor:
    """One block-triangular solve. With G = W Wᵀ of all N·K rows, G_d its diagonal K × K blocks and G_l those on and
    below the diagonal, unrolling the recursion gives D = G_d G_l⁻¹ W v.
    """
    stages, classes, width = weight.shape
    rows = weight.reshape(-1, width)  # (N·K, F)
    gram = rows @ rows.T
    stage = torch.arange(stages, device=weight.device).repeat_interleave(classes)
    ridge = 4 * width * torch.finfo(gram.dtype).eps * gram.diagonal()
    below = torch.where(stage.unsqueeze(1) >= stage, gram, 0) + torch.diag_embed(ridge)
    solved = torch.linalg.solve(below, rows @ features.T)  # (N·K, B)
    within = torch.where(stage.unsqueeze(1) == stage, below, 0)
    return (within @ solved).T.unflatten(1, (stages, classes))
