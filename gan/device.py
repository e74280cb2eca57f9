"""Which arithmetic a device does well."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch

from gan.errors import UserError

Autocast = Callable[[], AbstractContextManager[object]]


def resolve_device(name: str) -> torch.device:
    """`auto` → the first CUDA device where there is one, else the CPU; anything else as torch reads it, CUDA's with an
    index.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which a device without memory, such as meta, cannot give
        if device.type == "cuda" and device.index is None:  # `torch.cuda.set_device` asks for the index
            device = torch.device("cuda", torch.cuda.current_device())
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        present = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise UserError(f"--device {name}: no such device here; accepted: {', '.join(present)}") from error
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` → `bfloat16` where the hardware multiplies in it, else `float32`; others as they are.

    A CPU without AVX512-BF16 or AMX emulates bfloat16 convolutions, far slower than float32.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return "bfloat16" if native else "float32"


def make_autocast(precision: str, device: torch.device) -> Autocast:
    """A factory of autocast contexts, one for each forward pass."""
    enabled = precision == "bfloat16"
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=enabled)
