"""The processes of one job, as torchrun starts them: one a device, all of them running the same program.

Ranks count from 0; rank 0 is the main one, which alone writes files and speaks. With one process nothing here
communicates and every function gives back what it was given.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from gan import processes
from gan.errors import UserError, is_out_of_memory
from gan.processes import started_with_others

TIMEOUT = timedelta(minutes=30)  # for a rank that neither answers nor ends; longer than any rank works alone
_MAX_DIMENSIONS = 6
Value = TypeVar("Value")


class LostPeerError(UserError):
    """Another process of the job has ended, or does not answer."""

    exit_status = 5


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _joined() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if _joined() else 0


def is_main() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


def local_device(name: str) -> str:
    """The device of this process: its own GPU of the host where `name` is `auto` or `cuda` and there are several ranks.

    Raises:
        UserError: a numbered device, which several processes would share.
    """
    if not started_with_others():
        return name
    if ":" in name:
        raise UserError(f"--device {name}: every process takes a device of its own; accepted: auto, cpu, cuda")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return name


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Within the block the processes that torchrun has started know each other; gloo for the CPU, NCCL for CUDA.

    Raises:
        LostPeerError: they do not find each other.
    """
    if not started_with_others():
        yield
        return
    processes.stop_with_parent()  # else ranks of a torchrun that was killed train on, and hold the run's lock
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _peers():
        store, number, count = next(rendezvous("env://"))
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=TIMEOUT)
    with processes.speaking_by(lambda: store.add("spoken", 1) == 1):
        yield
    dist.destroy_process_group()  # not after an error: it would wait for what others will not send


def add(tensor: Tensor) -> None:
    """The sum over all ranks, in place and the same bits everywhere."""
    if _joined():
        with _peers():
            dist.all_reduce(tensor)


def average(tensors: Sequence[Tensor]) -> None:
    """The means over all ranks, in place: one reduction for all tensors of a type, the same bits everywhere."""
    if not _joined():
        return
    for dtype in {tensor.dtype: None for tensor in tensors}:
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        bucket = torch.cat([tensor.reshape(-1) for tensor in same])
        add(bucket)
        bucket /= world_size()
        parts = bucket.split([tensor.numel() for tensor in same])
        torch._foreach_copy_(same, [part.view(tensor.shape) for part, tensor in zip(parts, same, strict=True)])


def gather(rows: Tensor) -> Tensor:
    """All ranks' rows `(n, …)` in the order of ranks, `(ranks · n, …)`, everywhere."""
    if not _joined():
        return rows
    blocks = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
    with _peers():
        dist.all_gather(blocks, rows.contiguous())
    return torch.cat(blocks)


def collect(tensor: Tensor, receive: Callable[[Tensor], object]) -> None:
    """The main rank calls `receive` with each other rank's tensor, in their order and one at a time; they send theirs.

    Tensors are on the CPU, of one dtype, and of any shapes.
    """
    if not _joined():
        return
    if not is_main():
        shape = torch.tensor([tensor.ndim, *tensor.shape, *[0] * (_MAX_DIMENSIONS - tensor.ndim)])
        with _peers():
            dist.send(shape, 0)
            if tensor.numel():
                dist.send(tensor.contiguous(), 0)
        return
    for source in range(1, world_size()):
        with _peers():
            dimensions, *sizes = _received(torch.empty(_MAX_DIMENSIONS + 1, dtype=torch.int64), source).tolist()
            theirs = torch.empty(sizes[:dimensions], dtype=tensor.dtype)
            if theirs.numel():
                _received(theirs, source)
        receive(theirs)


def from_main(value: Value) -> Value:
    """What the main rank gives, everywhere: tensors and plain values, nested as a checkpoint's; nothing is executed."""
    if not _joined():
        return value
    buffer = io.BytesIO()
    if is_main():
        torch.save(value, buffer)
    size = torch.tensor(buffer.tell())
    with _peers():
        dist.broadcast(size, 0)
        content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8) if is_main() else torch.empty(0)
        if not is_main():
            content = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(content, 0)
    return value if is_main() else torch.load(io.BytesIO(content.numpy().data), map_location="cpu", weights_only=True)


def broadcast(tensors: Sequence[Tensor]) -> None:
    """The main rank's values, in place, everywhere."""
    if _joined():
        with _peers(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def any_rank(flag: bool) -> bool:
    """Whether `flag` is set on any rank; a message over the CPU, so that no GPU is waited for."""
    if not _joined():
        return flag
    flags = torch.tensor(float(flag))
    add(flags)
    return bool(flags > 0)


def _received(empty: Tensor, source: int) -> Tensor:
    dist.recv(empty, source)
    return empty


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def _peers() -> Iterator[None]:
    """Errors of communication as one line: those of gloo and NCCL do not say what to do."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise LostPeerError(
            "another process of this job has ended or does not answer; the same command resumes from the newest "
            f"checkpoint ({str(error).splitlines()[0][:120]})"
        ) from error
