"""What every extractor is: torch-fidelity's `FeatureExtractorBase`, uint8 `(B, 3, H, W)` → a tuple of features.

So torch-fidelity's registered extractors work here, and ours work there.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gan.errors import NonFiniteError, UserError, nearest
from gan.metrics.extractors.weights import weights_hash
from gan.metrics.protocol import ExtractorIdentity

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COMPILED_TOLERANCE = 1e-5  # relative, per layer


def identify(extractor: FeatureExtractorBase) -> ExtractorIdentity:
    """The identity of any extractor. Ours carry one, taken before their batch norms were folded."""
    carried = getattr(extractor, "identity", None)
    if isinstance(carried, ExtractorIdentity):
        return carried
    return ExtractorIdentity(extractor.get_name(), weights_hash(extractor), "by the extractor", "float32")


def extract(extractor: FeatureExtractorBase, images: Tensor, dtype: str = "float32") -> dict[str, Tensor]:
    """Features by name, as float32, computed in `dtype` whatever autocast or TF32 setting training has left on.

    Args:
        images: uint8 `(B, 1 or 3, H, W)` on the extractor's device; one channel is repeated to three.
        dtype: of `DTYPES`; another than float32 moves features by about 1e-2 relative.

    Raises:
        ValueError: the images are of another type or shape.
        NonFiniteError: a feature is NaN or infinite.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected uint8 images (B, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
    return _run(extractor, extractor, images, dtype)


def metric_layers(extractor: FeatureExtractorBase, readers: Sequence[str]) -> tuple[str, str | None]:
    """The layer of the distances, and that of the inception score (None where the network has no class logits).

    Args:
        readers: the metrics that read class logits.

    Raises:
        UserError: the extractor does not give the layer, or has no logits though they are wanted.
    """
    layer = extractor.get_default_feature_layer_for_metric("fid")
    try:
        logits_layer = extractor.get_default_feature_layer_for_metric("isc")
    except KeyError:
        logits_layer = None
    name, given = identify(extractor).name, extractor.get_requested_features_list()
    if readers and logits_layer is None:
        raise UserError(f"{', '.join(readers)}: needs the logits of classes, which extractor '{name}' does not have")
    for wanted in [layer, logits_layer] if readers else [layer]:
        if wanted not in given:
            raise UserError(f"the metrics need layer '{wanted}' of extractor '{name}', which gives {', '.join(given)}")
    return layer, logits_layer


class Extraction:
    """An extractor as the evaluator runs it: in one arithmetic, and compiled where that leaves the features alone.

    Args:
        extractor: any torch-fidelity extractor, on its device.
        dtype: of its arithmetic, one of `DTYPES`.
        compiled: compile it on the first batch. Where a compiled layer is further than 1e-5 (relative) from the
            plain one, or the compiler fails, a warning is given and the plain one is used.
        batch_size: to which a smaller batch is filled up, so that one compiled program serves all.

    Raises:
        UserError: no such dtype.
    """

    def __init__(
        self, extractor: FeatureExtractorBase, dtype: str = "float32", compiled: bool = False, batch_size: int = 64
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"no dtype '{dtype}'{nearest(dtype, DTYPES)}")
        self.extractor = extractor
        self.dtype = dtype
        self.batch_size = batch_size
        self.identity = replace(identify(extractor), dtype=dtype)
        self._compile = compiled
        self._compiled: Callable[..., tuple[Tensor, ...]] | None = None

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features of uint8 images `(B, 1 or 3, H, W)`, as `extract` gives them."""
        if self._compile and self._compiled is None:
            self._try_compiling(images)
        if self._compiled is None:
            return extract(self.extractor, images, self.dtype)
        features = _run(self.extractor, self._compiled, self._filled(images), self.dtype)
        return {name: values[: len(images)] for name, values in features.items()}

    def _try_compiling(self, images: Tensor) -> None:
        plain = extract(self.extractor, images, self.dtype)
        candidate = torch.compile(self.extractor, dynamic=False, options={"freezing": True})
        try:
            fast = _run(self.extractor, candidate, self._filled(images), self.dtype)
        except NonFiniteError:
            raise
        except Exception as error:  # no compiler on the machine, or one of its many bugs: the plain one works
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"the extractor is not compiled: {reason}", stacklevel=3)
        else:
            worst = max(_distance(fast[name][: len(images)], values) for name, values in plain.items())
            if worst <= COMPILED_TOLERANCE:
                self._compiled = candidate
            else:
                warnings.warn(f"the extractor is not compiled: features moved by {worst:.1e} relative", stacklevel=3)
        self._compile = self._compiled is not None

    def _filled(self, images: Tensor) -> Tensor:
        missing = self.batch_size - len(images)
        return images if missing <= 0 else torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])


def _run(
    extractor: FeatureExtractorBase, forward: Callable[..., tuple[Tensor, ...]], images: Tensor, dtype: str
) -> dict[str, Tensor]:
    lower = dtype != "float32"
    autocast = torch.autocast(images.device.type, dtype=DTYPES[dtype] if lower else None, enabled=lower)
    with torch.no_grad(), autocast, _full_precision():
        tuple_of_features = forward(images.expand(-1, 3, -1, -1).contiguous())
    named: dict[str, Tensor] = extractor.convert_features_tuple_to_dict(tuple_of_features)
    for name, values in named.items():
        if not values.isfinite().all():
            raise NonFiniteError(f"extractor '{extractor.get_name()}' gave non-finite features '{name}'")
    return {name: values.float() for name, values in named.items()}


def _distance(first: Tensor, second: Tensor) -> float:
    return ((first - second).norm() / second.norm().clamp_min(1e-30)).item()


@contextmanager
def _full_precision() -> Iterator[None]:
    """IEEE float32 products: TF32 or bfloat16 inside a convolution would move features by 1e-3 relative."""
    backends: Any = torch.backends
    switches: list[Any] = [backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
