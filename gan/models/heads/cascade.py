"""The arithmetic of cascading rejection: one matrix product, one Gram matrix, one unit-triangular solve.

With weight vectors w_1 … w_N and v_1 = v (Shin, Yeo, Ko, arXiv:1911.10979):

    D_i = <v_i, w_i>,    v_{i+1} = v_i − (D_i / ‖p_i‖²) p_i                                          (1)

`sequential` rejects along p_i = w_i. `orthogonal` rejects along what w_i adds to the span of its predecessors,
p_i = w_i − Σ_{j<i} (<w_i, p_j>/‖p_j‖²) p_j (Gram–Schmidt). `none` rejects nothing. Unrolling (1), all three are

    (I + L) D = W v,    L strictly lower triangular,    L_ij = <w_i, p_j>/‖p_j‖²                      (2)

so no loop over stages and no intermediate v_i is needed. Weights are `(N, F)`, or `(B, N, F)` when each sample has its
own (conditional heads); arithmetic runs in the dtype of the weights, whatever autocast says.
"""

from typing import Any, Literal

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
            return _products(features, weights)
        rows = features if weights.dim() == 2 else features.unsqueeze(1)  # (B, F) or (B, 1, F)
        if rejection == "sequential" and weights.dim() == 3 and not torch.compiler.is_compiling():
            columns = _CascadeOfEachSample.apply(rows, weights)
        else:
            columns = _solve(rows, weights, rejection)
        return columns.T if weights.dim() == 2 else columns.squeeze(-1)


def _solve(rows: Tensor, weights: Tensor, rejection: Rejection) -> Tensor:
    """Equation (2): v as rows `(B, F)` or `(B, 1, F)`, W `(N, F)` or `(B, N, F)` → D `(N, B)` or `(B, N, 1)`."""
    triangle = unit_triangle(weights, rejection)
    return torch.linalg.solve_triangular(triangle, weights @ rows.mT, upper=False, unitriangular=True)


class _CascadeOfEachSample(torch.autograd.Function):
    """`_solve` of a sequential cascade for W `(B, N, F)`, with its gradient written out.

    Autograd's own would pass over the `(B, N, F)` weights several times more. It is only worth it there.

    With A = (I + L)⁻ᵀ ∂D, the gradient of the right-hand side of (2), and M = −tril(A Dᵀ, −1)/‖w‖², that of the Gram
    matrix below its diagonal, which has −Σ_i M_ij L_ij on it:

        ∂v = Aᵀ W,    ∂W = A v + (M + Mᵀ − 2 diag(Σ_i M_ij L_ij)) W

    A second derivative, which gradient penalties need, goes through the operations of `_solve`.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor) -> Tensor:
        gram = weights @ weights.mT
        squared_norms = _clamp(gram.diagonal(dim1=-2, dim2=-1)).unsqueeze(-2)
        triangle = gram.tril(-1) / squared_norms
        columns = torch.linalg.solve_triangular(triangle, weights @ rows.mT, upper=False, unitriangular=True)
        ctx.save_for_backward(rows, weights, triangle, squared_norms, columns)
        return columns

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights, triangle, squared_norms, columns = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated itself
            with without_autocast(rows):
                columns = _solve(rows, weights, "sequential")
                inputs = [tensor for tensor in (rows, weights) if tensor.requires_grad]
                gradients = iter(torch.autograd.grad(columns, inputs, gradient, create_graph=True))
            return tuple(next(gradients) if tensor.requires_grad else None for tensor in (rows, weights))
        with without_autocast(rows):
            right = torch.linalg.solve_triangular(triangle.mT, gradient, upper=True, unitriangular=True)  # A
            below = -(right @ columns.mT).tril(-1) / squared_norms  # M
            diagonal = (below * triangle).sum(-2) * (squared_norms.squeeze(-2) > _smallest(weights))  # 0 where clamped
            gram = below + below.mT
            gram.diagonal(dim1=-2, dim2=-1).sub_(2 * diagonal)
            return right.mT @ weights, torch.baddbmm(right * rows, gram, weights)


def cascade_scores_by_class(features: Tensor, tables: Tensor, labels: Tensor, rejection: Rejection) -> Tensor:
    """The scores of `cascade_scores(features, tables[labels])` without weights of its own for each sample.

    Every class has its unrolled weights U = (I + L)⁻¹ W, so all scores of all classes are one matrix product, of which
    each sample keeps those of its class. It reads `(K, N, F)` where the other way gathers `(B, N, F)`: cheaper where
    the batch holds many samples of each class.

    Args:
        features: v, `(B, F)`.
        tables: W of every class, `(K, N, F)`.
        labels: `(B,)`.
        rejection: how.

    Returns:
        `(B, N)` in the dtype of `tables`.
    """
    with without_autocast(features):
        unrolled = tables
        if rejection != "none":
            triangle = unit_triangle(tables, rejection)  # (K, N, N)
            unrolled = torch.linalg.solve_triangular(triangle, tables, upper=False, unitriangular=True)
        scores = (features.to(tables.dtype) @ unrolled.flatten(0, 1).T).unflatten(1, tables.shape[:2])  # (B, K, N)
        return scores.gather(1, labels[:, None, None].expand(-1, 1, tables.shape[1])).squeeze(1)


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
        products = _products(features.to(weights.dtype), weights)
        if rejection == "none":
            return products
        directions = rejected_directions(along, rejection)
        removed = cascade_scores(features, along, rejection) / _squared_norms(directions)  # (B, N)
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
        shares = cascade_scores(features, along, rejection) / _squared_norms(directions)  # (B, N)
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
    diagonal = _clamp(gram.diagonal(dim1=-2, dim2=-1))
    if rejection == "sequential":
        return gram.tril(-1) / diagonal.unsqueeze(-2)
    # W = (I + L) P with orthogonal rows P, so W Wᵀ = (I + L) diag(‖p‖²) (I + L)ᵀ: a Cholesky factor with its columns
    # divided by its diagonal. The ridge, a few rounding errors wide, keeps parallel weights finite: their ‖p‖ is 0.
    ridge = 4 * weights.shape[-2] * torch.finfo(weights.dtype).eps * diagonal
    factor = torch.linalg.cholesky_ex(gram + torch.diag_embed(ridge)).L
    return factor / factor.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)


def _products(features: Tensor, weights: Tensor) -> Tensor:
    """<v, w_i> for every stage, `(B, N)`."""
    if weights.dim() == 2:
        return features @ weights.T
    return (weights @ features.unsqueeze(-1)).squeeze(-1)


def _squared_norms(directions: Tensor) -> Tensor:
    return _clamp(directions.square().sum(-1))


def _clamp(squared_norms: Tensor) -> Tensor:
    """Keep ‖w‖² away from 0, where a direction is undefined and there is nothing to reject."""
    return squared_norms.clamp_min(_smallest(squared_norms))


def _smallest(squared_norms: Tensor) -> float:
    return float(torch.finfo(squared_norms.dtype).tiny ** 0.5)
