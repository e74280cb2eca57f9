"""What a step may not do on a device that runs ahead of Python: read from it, copy to it, mix it with the CPU."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations whose result, or its shape, Python has to wait for.
READS = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_numpy", "argwhere",
    "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount",
    "histc", "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_eigvals", "linalg_lstsq",
    "multinomial", "is_set_to", "_assert_async_is_false",
}  # fmt: skip
COPIES = {"_to_copy", "copy_", "copy", "_foreach_copy_"}


class UndisciplinedError(AssertionError):
    """A step waits for the device."""


class Discipline(TorchDispatchMode):
    """Refuses operations that wait for `device`, and counts what is copied to it, by dtype and number of dimensions.

    On the CPU there is nothing to copy to; reads are found all the same.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.copied: Counter[tuple[torch.dtype, int]] = Counter()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations += 1
        self._refuse_reads(func, args, kwargs)
        given = self._devices((args, kwargs))
        if len(given) > 1 and func.overloadpacket.__name__ not in COPIES:
            raise UndisciplinedError(f"{func} mixes {sorted(given)}")
        result = func(*args, **kwargs)
        if len(given | self._devices(result)) > 1:
            self._count(func, args, kwargs, result)
        return result

    def _refuse_reads(self, func: Any, args: Any, kwargs: Any) -> None:
        name = func.overloadpacket.__name__
        counted = name == "repeat_interleave" and kwargs.get("output_size") is None
        masks = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
        if name in READS or counted or masks:
            raise UndisciplinedError(f"{func} reads from the device")
        if name == "lift_fresh":  # not seen on meta
            raise UndisciplinedError("torch.tensor takes numbers from Python, which a device would have to be sent")

    def _devices(self, tree: Any) -> set[str]:
        return {one.device.type for one in tree_leaves(tree) if isinstance(one, Tensor)}

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Of an operation whose tensors are on two devices."""
        made = next(one for one in tree_leaves(result) if isinstance(one, Tensor))
        if made.device.type != self.device:
            raise UndisciplinedError(f"{func} copies from the device")
        if not (kwargs.get("non_blocking") or args[2:]):
            raise UndisciplinedError(f"{func} copies to the device and waits")
        self.copied[(made.dtype, made.dim())] += 1
