"""The arithmetic of cascading rejection: one matrix product, one Gram matrix, one unit-triangular solve.

With weight vectors w_1 … w_N and v_1 = v (Shin, Yeo, Ko, arXiv:1911.10979):

    D_i = <v_i, w_i>,    v_{i+1} = v_i − (D_i / ‖p_i‖²) p_i                                          (1)

`sequential` rejects along p_i = w_i. `orthogonal` rejects along what w_i adds to the span of its predecessors,
p_i = w_i − Σ_{j<i} (<w_i, p_j>/‖p_j‖²) p_j (Gram–Schmidt). `none` rejects nothing. Unrolling (1), all three are

    (I + L) D = W v,    L strictly lower triangular,    L_ij = <w_i, p_j>/‖p_j‖²                      (2)

so no loop over stages and no intermediate v_i is needed. Weights are `(N, F)`, or `(B, N, F)` when each sample has its
own (conditional heads); arithmetic runs in the dtype of the weights, whatever autocast says.
"""

from typing import Literal

import torch
from torch import Tensor

from gan.models.blocks.precision import without_autocast

Rejection = Literal["sequential", "orthogonal", "none"]


def cascade_scores(features: Tensor, weights: Tensor, rejection: Rejection = "sequential") -> Tensor:
    """Scores D of equation (2).

    Args:
        features: v, `(B, F)`.
        weights: W, `(N, F)` or `(B, N, F)`.
        rejection: what each stage removes before the next one looks.

    Returns:
        `(B, N)` in the dtype of `weights`.
    """
    with without_autocast(features):
        features = features.to(weights.dtype)
        if rejection == "none" or weights.shape[-2] == 1:
            return inner_products(features, weights)
        rows = features if weights.dim() == 2 else features.unsqueeze(1)  # (B, F) or (B, 1, F)
        triangle = unit_triangle(weights, rejection)
        columns = torch.linalg.solve_triangular(triangle, weights @ rows.mT, upper=False, unitriangular=True)
        return columns.T if weights.dim() == 2 else columns.squeeze(-1)


def cascade_scores_along(features: Tensor, weights: Tensor, along: Tensor, rejection: Rejection) -> Tensor:
    """Scores D_i = <v_i, u_i> where the v_i are what is left after rejecting along other vectors than the u_i.

    D_i = <v, u_i> − Σ_{j<i} c_j <u_i, p_j>, with c_j = <v_j, p_j>/‖p_j‖² the shares that the rejections along `along`
    have removed.

    Args:
        features: v, `(B, F)`.
        weights: the u_i, `(N, F)` or `(B, N, F)`.
        along: the vectors that are rejected, `(N, F)`.
        rejection: how.

    Returns:
        `(B, N)` in the dtype of `weights`.
    """
    with without_autocast(features):
        products = inner_products(features.to(weights.dtype), weights)
        if rejection == "none":
            return products
        directions = rejected_directions(along, rejection)
        removed = cascade_scores(features, along, rejection) / _squared_norms(directions, along)  # (B, N)
        overlaps = (weights @ directions.T).tril(-1)  # (N, N) or (B, N, N)
        return products - (overlaps @ removed.unsqueeze(-1)).squeeze(-1)


def cascade_residuals(features: Tensor, along: Tensor, rejection: Rejection = "sequential") -> Tensor:
    """The vectors v_1 … v_{N+1} that equation (1) passes from stage to stage; the last is what no stage has seen.

    Args:
        features: v, `(B, F)`.
        along: the vectors that are rejected, `(N, F)` or `(B, N, F)`.
        rejection: how.

    Returns:
        `(B, N + 1, F)`.
    """
    with without_autocast(features):
        features = features.to(along.dtype)
        if rejection == "none":
            return features.unsqueeze(1).expand(-1, along.shape[-2] + 1, -1)
        directions = rejected_directions(along, rejection)
        shares = cascade_scores(features, along, rejection) / _squared_norms(directions, along)  # (B, N)
        removed = (shares.unsqueeze(-1) * directions).cumsum(dim=1)  # (B, N, F)
        return features.unsqueeze(1) - torch.nn.functional.pad(removed, (0, 0, 1, 0))


def rejected_directions(weights: Tensor, rejection: Rejection) -> Tensor:
    """The directions p_i that the stages remove, in the shape of `weights`."""
    if rejection != "orthogonal":
        return weights
    triangle = unit_triangle(weights, rejection)  # W = (I + L) P
    return torch.linalg.solve_triangular(triangle, weights, upper=False, unitriangular=True)


def unit_triangle(weights: Tensor, rejection: Rejection) -> Tensor:
    """I + L of equation (2), `(N, N)` or `(B, N, N)`; only its strictly lower part is read by the solve."""
    gram = weights @ weights.mT
    if rejection == "sequential":
        return gram.tril(-1) / clamped(gram.diagonal(dim1=-2, dim2=-1)).unsqueeze(-2)
    return unit_factor(gram)[0]  # W = (I + L) P with orthogonal rows P


def unit_factor(gram: Tensor) -> tuple[Tensor, Tensor]:
    """I + L, unit-triangular, and the d `(N,)` with gram = (I + L) diag(d) (I + L)ᵀ: `(N, N)` or `(B, N, N)`.

    It is a Cholesky factor with its columns divided by its diagonal. A ridge, a few rounding errors wide, keeps
    parallel vectors finite: their d is 0.
    """
    diagonal = clamped(gram.diagonal(dim1=-2, dim2=-1))
    ridge = 4 * gram.shape[-1] * torch.finfo(gram.dtype).eps * diagonal
    factor = torch.linalg.cholesky_ex(gram + torch.diag_embed(ridge)).L
    roots = factor.diagonal(dim1=-2, dim2=-1)
    return factor / roots.unsqueeze(-2), roots.square()


def inner_products(features: Tensor, weights: Tensor) -> Tensor:
    """<v, w_i> for every stage, `(B, N)`."""
    if weights.dim() == 2:
        return features @ weights.T
    return (weights @ features.unsqueeze(-1)).squeeze(-1)


def _squared_norms(directions: Tensor, along: Tensor) -> Tensor:
    """‖p_i‖², and for a p_i that only the ridge keeps from being 0 the ridge: then nothing is removed once more."""
    ridge = 4 * along.shape[-2] * torch.finfo(along.dtype).eps * along.square().sum(-1)
    return clamped(torch.maximum(directions.square().sum(-1), ridge))


def clamped(squared_norms: Tensor) -> Tensor:
    """Keep ‖w‖² away from 0, where a direction is undefined and there is nothing to reject."""
    return squared_norms.clamp_min(torch.finfo(squared_norms.dtype).tiny ** 0.5)
