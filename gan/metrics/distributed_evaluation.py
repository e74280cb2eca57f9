"""An evaluation divided among ranks: whole batches each, in order, brought together on the main one.

Every batch is the one that a single process would have, so its features are too, and the main rank adds all of them up
in the same order: so the scores are those of one process to the bit, even where a covariance is all but singular.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gan import distributed
from gan.metrics.accumulators import FeatureBank
from gan.metrics.evidence import Tally
from gan.metrics.protocol import ExtractorIdentity, ReferenceIdentity
from gan.metrics.reference import ReferenceStatistics
from gan.metrics.results import Result


def share(count: int, batch_size: int) -> tuple[int, int]:
    """The first of `count` images that is this rank's and the one after its last; the main rank has the first ones."""
    ranks, batches = distributed.world_size(), -(-count // batch_size)
    # Rounded up, so that the main rank has a batch wherever there is one: it is the one that knows the dimensions.
    first, end = (-(-batches * rank // ranks) * batch_size for rank in (distributed.rank(), distributed.rank() + 1))
    return min(first, count), min(end, count)


@contextmanager
def own_share(count: int, batch_size: int, skip: Callable[[int], None] | None) -> Iterator[int]:
    """How many of `count` images this rank generates; those before and after them, the others', are passed over.

    Args:
        skip: passes over n images; without it the main rank generates all of them.
    """
    if skip is None:
        yield count if distributed.is_main() else 0
        return
    first, end = share(count, batch_size)
    if first:
        skip(first)
    yield end - first
    if end < count:
        skip(count - end)


class Share:
    """What a rank other than the main one keeps of its batches: all that the main one's `Tally` has to hear of.

    Args:
        count: so many images will come.
        with_logits: whether their logits count.
    """

    def __init__(self, count: int, with_logits: bool) -> None:
        self.with_logits = with_logits
        self._rows = FeatureBank(expected=count)  # features and logits, side by side

    def update(self, features: Tensor, logits: Tensor | None = None, kept: Tensor | None = None) -> None:
        """As `Tally.update`; which features are kept is for the main rank to say."""
        told = [features, logits] if self.with_logits and logits is not None else [features]
        self._rows.update(torch.cat(told, dim=1))

    def rows(self) -> Tensor:
        """`(n, D)`, or `(n, D + classes)`."""
        return self._rows.result() if self._rows.count else torch.empty(0, 0)


def own_tally(tally: Tally, count: int) -> Tally | Share:
    """What this rank keeps of its share of `count` images: `tally` itself on the main rank, else what it will send."""
    return tally if distributed.is_main() else Share(count, tally.reads_logits)


def merge(own: Tally | Share, batch_size: int, kept: Tensor | None = None) -> None:
    """Tell the main rank's tally of all other ranks' batches, in the order of the images.

    It adds them as if it had extracted them itself, so that sums are rounded as in one process.

    Args:
        kept: which features of all images `(count,)` are kept; None for all.
    """
    if isinstance(own, Share):
        distributed.collect(own.rows(), lambda rows: None)
        return
    dimensions = own.gaussian.mean.numel()

    def add(rows: Tensor) -> None:
        for batch in rows.split(batch_size) if len(rows) else ():
            start = own.gaussian.count
            features, logits = batch[:, :dimensions], batch[:, dimensions:]
            some = None if kept is None else kept[start : start + len(batch)]
            own.update(features, logits if logits.shape[1] else None, some)

    distributed.collect(torch.empty(0, 0), add)


def everywhere(result: Result | None) -> Result:
    """The main rank's result, on all ranks."""
    values = distributed.from_main({} if result is None else result.to_dict())
    return Result.from_dict(values) if result is None else result


def unmeasured(identity: ReferenceIdentity, extractor: ExtractorIdentity, layer: str) -> ReferenceStatistics:
    """What the other ranks know of a reference that the main one has measured: which it is."""
    return ReferenceStatistics(identity, extractor, layer, torch.empty(0), torch.empty(0, 0), None)
