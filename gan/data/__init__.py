"""The images: every source becomes one uint8 array with labels, prepared once and served on the device.

Read `sources` for what there is, `store` for how it is prepared, `loader` for how it reaches the device.
"""

from gan.data.loader import Loader, real_batch, to_float
from gan.data.sampler import Sampler
from gan.data.sources import SOURCES, SourceInfo, source_info
from gan.data.store import ImageStore, prepare

__all__ = [
    "SOURCES",
    "ImageStore",
    "Loader",
    "Sampler",
    "SourceInfo",
    "prepare",
    "real_batch",
    "source_info",
    "to_float",
]
