"""Arithmetic that must not be narrowed."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """A context in which operations on the device of `tensor` keep the dtypes they are given."""
    kind = tensor.device.type
    # Meta tensors have no autocast, and torch 2.11 cannot compile the question whether a device has one.
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
