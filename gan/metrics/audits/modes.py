"""Which modes of the real images does a generator leave out, and which does it favour?

Modes are classes that somebody reads, or communities of real images: a mutual nearest-neighbour graph and the map
equation's partition of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, triu
from scipy.stats import false_discovery_control, hypergeom
from torch import Tensor

from gan.errors import UserError
from gan.metrics.audits.neighbours import nearest_neighbours
from gan.seeds import derive_seed

Counts = NDArray[np.int64]  # (modes,)
Edges = NDArray[np.int64]  # (E, 2), each pair once, the smaller row first
Communities = NDArray[np.int64]  # (N,), 0 the largest; −1 none

FALSE_DISCOVERIES = 0.05  # share of false ones among the modes that are listed (Benjamini & Hochberg 1995)
MISSED = 0.1  # of the real share, or less
FACTOR = 2.0  # between shares, from which on a mode is listed
PRIOR = 0.5  # added to each count, so that an empty mode has a finite logarithm (Jeffreys)
PERMUTATIONS = 500
TRIALS = 5  # of Infomap, from different random orders; the shortest code wins


@dataclass(frozen=True)
class ModeReport:
    """Generated images against real ones, mode by mode.

    Lists of modes are in order of the real images that a mode has or, for `over`, of the generated ones. A mode is
    listed when the difference is unlikely to be chance (false discovery rate 5 %) and the shares differ by a factor
    of 2; it is `missed` when the generated share is at most a tenth of the real one, else `under`. `undecided` modes
    have no generated image, which may be chance. Divergences are in nats; `chance` is the mean of KL(generated ‖ real)
    over random splits of the pooled images, and `p_value` the share of splits that diverge as much.
    """

    names: tuple[str, ...]
    generated: tuple[int, ...]
    real: tuple[int, ...]
    kl_generated_real: float
    kl_real_generated: float
    chance: float
    p_value: float
    missed: tuple[int, ...]
    under: tuple[int, ...]
    over: tuple[int, ...]
    undecided: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many modes there are."""
        return len(self.names)

    @property
    def covered(self) -> int:
        """How many modes have a generated image."""
        return sum(count > 0 for count in self.generated)


def mutual_neighbour_graph(features: Tensor, k: int, device: torch.device | str = "cpu") -> Edges:
    """Pairs of rows of `features` `(N, D)` that are each among the k nearest of the other by cosine.

    Raises:
        UserError: fewer than k + 1 rows.
    """
    found = nearest_neighbours(features, features, k, exclude_self=True, device=device).indices.numpy()
    count = len(features)
    rows = np.repeat(np.arange(count), k)
    directed = coo_array((np.ones(len(rows), dtype=bool), (rows, found.reshape(-1))), shape=(count, count)).tocsr()
    mutual = triu(directed.multiply(directed.T)).tocoo()
    return np.stack([mutual.row, mutual.col], axis=1).astype(np.int64)


def find_communities(edges: Edges, count: int, minimum_size: int, seed: int) -> Communities:
    """The two-level partition of a graph with the shortest description of a random walk on it.

    Map equation: Rosvall & Bergstrom, PNAS 105 (2008), found by Infomap. The number of communities is an outcome.

    Args:
        edges: of nodes 0 … count − 1.
        minimum_size: smaller communities, and nodes without an edge, get −1.
        seed: of Infomap's random order; the same seed gives the same communities.

    Raises:
        UserError: no community is as large as `minimum_size`.
    """
    from infomap import Infomap  # here, because only this audit needs it

    communities = np.full(count, -1, dtype=np.int64)
    if len(edges):
        infomap = Infomap(two_level=True, silent=True, num_trials=TRIALS, seed=derive_seed(seed, "infomap") % 2**31 + 1)
        infomap.add_links(edges)
        modules = infomap.run().modules()
        communities[np.fromiter(modules, np.int64)] = np.fromiter(modules.values(), np.int64)
    names, sizes = np.unique(communities[communities >= 0], return_counts=True)
    kept = names[sizes >= minimum_size][np.argsort(-sizes[sizes >= minimum_size], kind="stable")]
    if not len(kept):
        raise UserError(f"the real images form no community of {minimum_size} or more; use more images or neighbours")
    renumbered = np.full(count, -1, dtype=np.int64)
    for number, name in enumerate(kept):
        renumbered[communities == name] = number
    return renumbered


def assign(
    queries: Tensor,
    gallery: Tensor,
    communities: Communities,
    k: int,
    *,
    device: torch.device | str = "cpu",
) -> Communities:
    """The community that most of the k nearest neighbours of each query `(Q, D)` belong to; a tie goes to the nearest.

    Only rows of `gallery` `(G, D)` that belong to a community vote.
    """
    members = torch.from_numpy(np.flatnonzero(communities >= 0))
    found = nearest_neighbours(queries, gallery[members], min(k, len(members)), device=device).indices
    voters = torch.from_numpy(communities)[members][found]  # (Q, k), the nearest first
    votes = (voters[:, :, None] == voters[:, None, :]).sum(dim=2)
    return voters.gather(1, votes.argmax(dim=1, keepdim=True))[:, 0].numpy()


def divergence(first: Counts, second: Counts) -> float:
    """KL(p ‖ q) = Σ p ln(p/q) in nats of two histograms `(modes,)`, with ½ added to every count."""
    p, q = ((counts + PRIOR) / (counts + PRIOR).sum() for counts in (first, second))
    return float((p * np.log(p / q)).sum())


def exact_divergence(shares: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """KL(p ‖ q) = Σ p ln(p/q) in nats of two distributions `(modes,)`, as published: nothing is added to a share."""
    taken = shares > 0
    return float((shares[taken] * np.log(shares[taken] / expected[taken])).sum())


def compare_occupancy(generated: Counts, real: Counts, names: Sequence[str], seed: int) -> ModeReport:
    """Compare how many generated and how many real images each mode has; `seed` is of the random splits.

    Given the pooled count of a mode, the generated one is hypergeometric if both samples are from one distribution:
    a small mode without a generated image is not called missed.
    """
    m, n, pooled = int(generated.sum()), int(real.sum()), generated + real
    chance_of = hypergeom(m + n, pooled, m)
    fewer, more = chance_of.cdf(generated), chance_of.sf(generated - 1)
    under = _discovered(fewer) & (generated / m * FACTOR <= real / n)
    over = _discovered(more) & (generated / m >= FACTOR * real / n)
    missed = under & (generated / m <= MISSED * real / n)
    kl = divergence(generated, real)
    random = np.random.default_rng(seed)
    splits = random.multivariate_hypergeometric(pooled, m, size=PERMUTATIONS, method="marginals")
    by_chance = np.array([divergence(split, pooled - split) for split in splits])
    return ModeReport(
        names=tuple(names),
        generated=tuple(generated.tolist()),
        real=tuple(real.tolist()),
        kl_generated_real=kl,
        kl_real_generated=divergence(real, generated),
        chance=float(by_chance.mean()),
        p_value=float((1 + (by_chance >= kl).sum()) / (1 + PERMUTATIONS)),
        missed=_listed(missed, real),
        under=_listed(under & ~missed, real),
        over=_listed(over, generated),
        undecided=_listed((generated == 0) & (real > 0) & ~missed, real),
    )


def _discovered(p_values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(false_discovery_control(np.clip(p_values, 0, 1)) <= FALSE_DISCOVERIES)


def _listed(chosen: NDArray[np.bool_], order_by: Counts) -> tuple[int, ...]:
    modes = np.flatnonzero(chosen)
    return tuple(modes[np.argsort(-order_by[modes], kind="stable")].tolist())
