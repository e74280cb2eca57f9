"""Exact nearest neighbours, block by block: no matrix of all pairs is ever held."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gan.errors import UserError
from gan.progress import passing

QUERIES, GALLERY = 2048, 8192  # rows of a block: 64 MiB of similarities


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of each query, the nearest first: cosine distances 1 − cos in [0, 2] and rows of the gallery.

    distances `(Q, k)` float32, indices `(Q, k)` int64, on the CPU.
    """

    distances: Tensor
    indices: Tensor


def nearest_neighbours(
    queries: Tensor, gallery: Tensor, k: int, *, exclude_self: bool = False, device: torch.device | str = "cpu"
) -> Neighbours:
    """The k rows of `gallery` `(G, D)` that are nearest to each row of `queries` `(Q, D)` by cosine.

    Args:
        exclude_self: query i is row i of the gallery and is not its own neighbour.
        device: where the products are computed.

    Raises:
        UserError: the gallery has fewer than k candidates.
    """
    candidates = len(gallery) - exclude_self
    if not 1 <= k <= candidates:
        raise UserError(f"{k} neighbours asked for among {candidates} images; accepted: 1 to {candidates}")
    distances, indices = torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.int64)
    starts = range(0, len(queries), QUERIES)
    for start in passing(starts, "neighbours", "blocks", shown=len(starts) >= 4):
        block = F.normalize(queries[start : start + QUERIES].to(device), dim=1)
        similarity, index = _most_similar(block, gallery, k, start if exclude_self else None)
        distances[start : start + QUERIES] = (1 - similarity).clamp(0, 2).cpu()
        indices[start : start + QUERIES] = index.cpu()
    return Neighbours(distances, indices)


def _most_similar(queries: Tensor, gallery: Tensor, k: int, first_row: int | None) -> tuple[Tensor, Tensor]:
    """The k largest cosines of unit queries `(q, D)`, largest first, and their rows in the gallery: both `(q, k)`."""
    best = queries.new_full((len(queries), k), -torch.inf)
    rows = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
    for start in range(0, len(gallery), GALLERY):
        block = F.normalize(gallery[start : start + GALLERY].to(queries.device), dim=1)
        similarity = queries @ block.T
        if first_row is not None:
            own = torch.arange(first_row, first_row + len(queries), device=queries.device) - start
            here = (own >= 0) & (own < len(block))
            similarity[here.nonzero()[:, 0], own[here]] = -torch.inf
        block_rows = torch.arange(start, start + len(block), device=queries.device).expand(len(queries), -1)
        best, places = torch.cat([best, similarity], dim=1).topk(k, dim=1)
        rows = torch.cat([rows, block_rows], dim=1).gather(1, places)
    return best, rows
