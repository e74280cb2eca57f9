"""Synthesizer (Tay et al. 2020, arXiv:2005.00743): softmax(B) V with a B that no key has a part in.

Every position needs a logit for every other, so the size of the maps is fixed. Images of one size have that size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.attention.block import Layout, LogitForm


class Dense(LogitForm):
    """B = relu(X W₁ + b₁) W₂ + b₂: a position's features say where it looks. `(n, m)` from `(n, C)`.

    Args:
        layout: the sizes.
        hidden: width of the layer between, which the heads share; None for that of queries.
    """

    def __init__(self, layout: Layout, *, hidden: int | None = None) -> None:
        super().__init__(layout)
        self.scores = _Scores(layout, hidden, layout.key_positions)

    def logits(self, tokens: Tensor) -> Tensor:
        return self.scores(tokens)


class FactorizedDense(LogitForm):
    """B_ij = B₁[i, j div b] · B₂[i, j mod b] with B₁ `(n, a)`, B₂ `(n, b)` as of `Dense`, and a·b = m.

    Args:
        layout: the sizes.
        rows: a, a divisor of m; None for the rows of the map that is attended to, so that one factor chooses the row,
            the other the column.
        hidden: as of `Dense`, for each factor.
    """

    def __init__(self, layout: Layout, *, rows: int | None = None, hidden: int | None = None) -> None:
        super().__init__(layout)
        rows = layout.key_grid[0] if rows is None else rows
        if rows < 1 or layout.key_positions % rows:
            raise ValueError(f"rows: {rows} found, a divisor of {layout.key_positions} (key positions) accepted")
        self.row_scores = _Scores(layout, hidden, rows)
        self.column_scores = _Scores(layout, hidden, layout.key_positions // rows)

    def logits(self, tokens: Tensor) -> Tensor:
        return (self.row_scores(tokens).unsqueeze(-1) * self.column_scores(tokens).unsqueeze(-2)).flatten(-2)


class Random(LogitForm):
    """B = R, an `(n, m)` matrix for each head, the same for all inputs; N(0, 1) at first.

    Args:
        layout: the sizes.
        learned: whether R is trained; if not it stays as it was drawn.
    """

    def __init__(self, layout: Layout, *, learned: bool = True) -> None:
        super().__init__(layout)
        matrix = torch.randn(layout.heads, layout.positions, layout.key_positions)
        if learned:
            self.matrix = nn.Parameter(matrix)
        else:
            self.register_buffer("matrix", matrix)

    def logits(self, tokens: Tensor) -> Tensor:
        return self.matrix


class FactorizedRandom(LogitForm):
    """B = R₁ R₂ᵀ of rank k, the same for all inputs; entries of B have variance 1 at first.

    Args:
        layout: the sizes.
        rank: k, at least 1. The paper uses 8.
        learned: whether R₁ and R₂ are trained.
    """

    def __init__(self, layout: Layout, *, rank: int = 8, learned: bool = True) -> None:
        super().__init__(layout)
        if rank < 1:
            raise ValueError(f"rank: {rank} found, 1 or more accepted")
        scale = rank**-0.25  # An entry of B is a sum of k products of two entries, each of variance 1/√k.
        left = scale * torch.randn(layout.heads, layout.positions, rank)
        right = scale * torch.randn(layout.heads, layout.key_positions, rank)
        if learned:
            self.left, self.right = nn.Parameter(left), nn.Parameter(right)
        else:
            self.register_buffer("left", left)
            self.register_buffer("right", right)

    def logits(self, tokens: Tensor) -> Tensor:
        return self.left @ self.right.mT


class _Scores(nn.Module):
    """Two layers that give each position `columns` numbers for each head: `(B, n, C)` → `(B, h, n, columns)`."""

    def __init__(self, layout: Layout, hidden: int | None, columns: int) -> None:
        super().__init__()
        hidden = layout.query_channels if hidden is None else hidden
        if hidden < 1:
            raise ValueError(f"hidden: {hidden} found, 1 or more accepted")
        self.layout = layout
        self.first = layout.project(layout.channels, hidden, bias=True)
        self.second = layout.project(hidden, layout.heads * columns, bias=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layout.split(self.second(F.relu(self.first(tokens))))
