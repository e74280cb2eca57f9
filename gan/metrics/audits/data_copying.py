"""C_T: is a generator closer to its training images than held-out images are, cell by cell?

Copying in one region does not show on the whole where another region is far off; within cells it does.
"""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from gan.metrics.audits.neighbours import Neighbours

CELLS = 10
FEWEST = 20  # generated and held-out images that a cell needs to be compared in
ROUNDING = 6  # decimals: a float32 cosine of an image with its own copy is 1 to about 1e-7
SEED = 2020


@dataclass(frozen=True)
class DataCopying:
    """`statistic` is C_T: below −3 copying, about 0 none, above 3 further off than held-out images; None without cells.

    `lowest` is the smallest Z of a cell; `cells` were compared, `share` of the held-out images lie in them.
    """

    statistic: float | None
    lowest: float | None
    cells: int
    share: float


def data_copying(generated: Neighbours, held_out: Neighbours, training: Tensor) -> DataCopying:
    """The statistic of Meehan, Chaudhuri and Dasgupta 2020 (arXiv:2004.05675, section 3.2).

    Cells are those of k-means on unit training features `(N, D)`, an image's that of its nearest training image. Of a
    cell, Z = (U − mn/2)/√(mn(m + n + 1)/12), U counting pairs in which the generated image is the further one from its
    nearest training image; C_T is the mean of Z, weighted by the held-out images of the cells.
    """
    unit = F.normalize(training.double(), dim=1).cpu().numpy()
    _, cell_of = kmeans2(unit, min(CELLS, len(unit)), minit="++", seed=SEED)
    scores, weights = [], []
    for cell in range(CELLS):
        ours, theirs = (
            found.distances[:, 0].double().numpy()[cell_of[found.indices[:, 0].numpy()] == cell].round(ROUNDING)
            for found in (generated, held_out)
        )
        if min(len(ours), len(theirs)) >= FEWEST:
            scores.append(standardised(ours, theirs))
            weights.append(len(theirs))
    if not scores:
        return DataCopying(None, None, 0, 0.0)
    share = sum(weights) / len(held_out.distances)
    return DataCopying(float(np.average(scores, weights=weights)), min(scores), len(scores), share)


def standardised(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Z of the Mann–Whitney statistic of `(m,)` and `(n,)`: negative where ours are the smaller."""
    m, n = len(ours), len(theirs)
    larger = rankdata(np.concatenate([ours, theirs]))[:m].sum() - m * (m + 1) / 2
    return float((larger - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))
