"""An evaluation divided among ranks: whole batches each, in order, brought together on the main one.

Every batch is the one that a single process would have, so its features are too; only the sums of the Gaussian
statistics are added in another order, in float64.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gan import distributed
from gan.metrics.accumulators import FeatureBank, GaussianStatistics
from gan.metrics.evidence import Tally
from gan.metrics.protocol import ExtractorIdentity, ReferenceIdentity
from gan.metrics.reference import ReferenceStatistics
from gan.metrics.results import Result


def share(count: int, batch_size: int) -> tuple[int, int]:
    """The first of `count` images that is this rank's and the one after its last; the main rank has the first ones."""
    ranks, batches = distributed.world_size(), -(-count // batch_size)
    first, end = (batches * rank // ranks * batch_size for rank in (distributed.rank(), distributed.rank() + 1))
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


def own_tally(tally: Tally, count: int) -> Tally:
    """What this rank keeps of its share of `count` images: `tally` itself on the main rank, else what it will send."""
    if distributed.is_main():
        return tally
    features = FeatureBank(expected=count) if tally.features is not None else None
    return Tally(tally.gaussian, features, None, FeatureBank(expected=count) if tally.reads_logits else None)


def merge(own: Tally) -> None:
    """Bring all ranks' shares into the main one's tally, in the order of the images; the others' are given up."""
    if distributed.world_size() == 1:
        return
    gaussian = own.gaussian

    def add(moments: Tensor) -> None:
        if moments.numel():
            other = GaussianStatistics()
            other.scatter, other.mean, other.count = moments[:-2], moments[-2], int(moments[-1, 0])
            gaussian.merge(other)

    count = torch.full_like(gaussian.mean, gaussian.count)
    distributed.collect(torch.cat([gaussian.scatter, gaussian.mean[None], count[None]]).cpu(), add)  # (D + 2, D)
    if own.features is not None:
        distributed.collect(_rows(own.features), _keeper(own.features.update))
    if own.reads_logits:
        keep = [kept.update for kept in (own.probabilities, own.logits, own.classes) if kept is not None]
        distributed.collect(_rows(own.logits), _keeper(*keep))


def everywhere(result: Result | None) -> Result:
    """The main rank's result, on all ranks."""
    values = distributed.from_main({} if result is None else result.to_dict())
    return Result.from_dict(values) if result is None else result


def unmeasured(identity: ReferenceIdentity, extractor: ExtractorIdentity, layer: str) -> ReferenceStatistics:
    """What the other ranks know of a reference that the main one has measured: which it is."""
    return ReferenceStatistics(identity, extractor, layer, torch.empty(0), torch.empty(0, 0), None)


def _rows(bank: FeatureBank | None) -> Tensor:
    return bank.result() if bank is not None and bank.count else torch.empty(0, 0)


def _keeper(*keep: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    def receive(rows: Tensor) -> None:
        for kept in keep if len(rows) else ():
            kept(rows)

    return receive
