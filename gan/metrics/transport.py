"""How far one cloud of features has to move to be the other: the sliced 2-Wasserstein distance.

It sees whole distributions along every direction, where a Fréchet distance sees two moments.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

AT_ONCE = 100  # directions: 20 MB of projections of 50,000 images


def monge_inception_distance(fake: Tensor, real: Tensor, projections: int, seed: int) -> float:
    """MIND: 3D · E_u W₂²({uᵀf}, {uᵀr}) over random unit directions u (Berthet et al. 2026, arXiv:2605.06797).

    Draws and directions are those of torch-fidelity's `mind_features_to_metric`, hence the same numbers up to rounding.

    Args:
        fake, real: features `(N, D)` and `(M, D)`; of the larger set min(N, M) rows are drawn.
        projections: how many directions.

    Raises:
        ValueError: the dimensions differ.
    """
    fake, real, _, directions = _prepared(fake, real, projections, seed)
    total = sum(
        float((one - other).double().square().mean(dim=0).sum()) for one, other, _ in _sorted(fake, real, directions)
    )
    return 3 * fake.shape[1] * total / projections


def transport_influence(fake: Tensor, real: Tensor, projections: int, seed: int) -> Tensor:
    """ψ `(N,)` of MIND, less its mean: 3D · E_u φ_u(uᵀx), φ_u the Kantorovich potential, φ_u' (t) = 2(t − T_u(t)).

    T_u is the monotone map that takes the sorted projections of `fake` to those of `real`; the potential is integrated
    between them by the trapezoidal rule. Rows that were not drawn have none, and those that were as much more.
    """
    count = len(fake)
    fake, real, rows, directions = _prepared(fake, real, projections, seed)
    influence = torch.zeros(len(fake), dtype=torch.float64, device=fake.device)
    for one, other, order in _sorted(fake, real, directions):
        gap, slope = one.diff(dim=0).double(), (one - other).double()
        potential = torch.zeros_like(slope)
        potential[1:] = (gap * (slope[1:] + slope[:-1])).cumsum(dim=0)
        influence += torch.zeros_like(potential).scatter_(0, order, potential - potential.mean(dim=0)).sum(dim=1)
    every = torch.zeros(count, dtype=torch.float64, device=fake.device)
    every[rows] = influence * (3 * fake.shape[1] / projections * count / len(fake))
    return every


def _prepared(fake: Tensor, real: Tensor, projections: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Equally many float32 rows of both, which those of `fake` are, and unit directions `(projections, D)`."""
    if fake.shape[1] != real.shape[1]:
        raise ValueError(f"features of {fake.shape[1]} and {real.shape[1]} dimensions")
    random = torch.Generator().manual_seed(seed)
    count = min(len(fake), len(real))
    chosen = [_rows(len(features), count, random).to(features.device) for features in (fake, real)]
    directions = torch.randn(projections, fake.shape[1], generator=random)
    directions /= directions.norm(dim=1, keepdim=True)
    return fake[chosen[0]].float(), real[chosen[1]].float(), chosen[0], directions.to(fake.device)


def _rows(size: int, count: int, random: torch.Generator) -> Tensor:
    return torch.arange(size) if size == count else torch.randperm(size, generator=random)[:count]


def _sorted(fake: Tensor, real: Tensor, directions: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Sorted projections `(n, m)` of both on some directions, and the rows of `fake` that they are of."""
    for some in directions.split(AT_ONCE):
        one, order = (fake @ some.T).sort(dim=0)
        yield one, (real @ some.T).sort(dim=0).values, order
