"""Communities of real images: a mutual nearest-neighbour graph and the map equation's partition of it."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, triu
from torch import Tensor

from gan.errors import UserError
from gan.metrics.audits.neighbours import nearest_neighbours
from gan.seeds import derive_seed

Edges = NDArray[np.int64]  # (E, 2), each pair once, the smaller row first
Communities = NDArray[np.int64]  # (N,), 0 the largest; −1 none

TRIALS = 5  # of Infomap, from different random orders; the shortest code wins


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
