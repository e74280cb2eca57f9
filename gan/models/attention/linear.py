"""Linear attention: weights that factor, so that no n × m matrix is formed and the cost is O(n·d²).

With similarities sim(q, k) = φ(q)·φ(k) ≥ 0 (Katharopoulos et al. 2020, arXiv:2006.16236),

    A_ij = sim(q_i, k_j) / Σ_l sim(q_i, k_l),    A V = φ(Q) (φ(K)ᵀ V) / φ(Q) (φ(K)ᵀ 1)                             (1)

The right-hand side is computed from right to left, in float32 or wider whatever autocast says: the sums run over all
positions.
"""

import torch
from torch import Tensor

from gan.models.attention.block import Form, Layout
from gan.models.blocks.precision import without_autocast

UNDERFLOW = 1e-12  # keeps a sum of similarities above 0 where its terms have no floor of their own
LENGTH_FLOOR = 1e-4


class LinearForm(Form):
    """A form of queries and keys with a factored similarity.

    Args:
        layout: the sizes.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.query = layout.project(layout.channels, layout.query_channels)
        self.key = layout.project(layout.channels, layout.query_channels)

    def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
        queries, keys = self._project(tokens)
        with without_autocast(tokens):
            return self.attend(queries, keys, values.to(queries.dtype)).to(values.dtype)

    def weights(self, tokens: Tensor) -> Tensor:
        queries, keys = self._project(tokens)
        with without_autocast(tokens):
            return self.explicit_weights(queries, keys)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries `(B, h, n, d)`, keys `(B, h, m, d)` and values `(B, h, m, e)` → `(B, h, n, e)`, factored."""
        raise NotImplementedError

    def explicit_weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The weights that `attend` never forms, `(B, h, n, m)`."""
        raise NotImplementedError

    def _project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        split, pool = self.layout.split, self.layout.pool
        queries, keys = split(self.query(tokens)), split(pool(self.key(tokens)))
        wide = torch.promote_types(queries.dtype, torch.float32)
        return queries.to(wide), keys.to(wide)


class Elu(LinearForm):
    """φ(x) = elu(x) + 1, of queries and of keys (arXiv:2006.16236, equation 7)."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries, keys = _elu_plus_one(queries), _elu_plus_one(keys)
        total = queries @ keys.sum(-2).unsqueeze(-1)  # (B, h, n, 1)
        return queries @ (keys.mT @ values) / total.clamp(min=UNDERFLOW)

    def explicit_weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        similarity = _elu_plus_one(queries) @ _elu_plus_one(keys).mT
        return similarity / similarity.sum(-1, keepdim=True).clamp(min=UNDERFLOW)


class Efficient(LinearForm):
    """A = softmax(Q over its channels) softmax(K over positions)ᵀ, rows of sum one as it is (arXiv:1812.01243)."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return queries.softmax(-1) @ (keys.softmax(-2).mT @ values)

    def explicit_weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        return queries.softmax(-1) @ keys.softmax(-2).mT


class Taylor(LinearForm):
    """sim = 1 + <q, k> ≥ 0 of q and k at unit length: exp to first order (kexue.fm/archives/7546).

    Lengths are √(‖q‖² + ε²) with ε = 1e-4, so that a position of no features attends to all alike, with a finite
    gradient.
    """

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries, keys = _unit(queries), _unit(keys)
        total = keys.shape[-2] + queries @ keys.sum(-2).unsqueeze(-1)
        return (values.sum(-2, keepdim=True) + queries @ (keys.mT @ values)) / _above_rounding(total, keys)

    def explicit_weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        similarity = 1 + _unit(queries) @ _unit(keys).mT
        return similarity / _above_rounding(similarity.sum(-1, keepdim=True), keys)


def _elu_plus_one(features: Tensor) -> Tensor:
    """x + 1 above 0, exp(x) below: `F.elu` would give exp(x) − 1, and adding 1 to that rounds small values to 0."""
    return torch.where(features > 0, features + 1, features.clamp(max=0).exp())


def _unit(vectors: Tensor) -> Tensor:
    return vectors * (vectors.square().sum(-1, keepdim=True) + LENGTH_FLOOR**2).rsqrt()


def _above_rounding(total: Tensor, keys: Tensor) -> Tensor:
    """Sums of 1 + cosine, kept above what rounding leaves of them where every key opposes the query."""
    return total.clamp(min=16 * torch.finfo(keys.dtype).eps * keys.shape[-2])
