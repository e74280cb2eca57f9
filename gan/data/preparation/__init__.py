"""Folders and archives of any size to prepared images: listed compactly, decoded on all cores, resumable, verified.

Read `inputs` for what can be read, `layout` and `selection` for which images are taken and in which order, `decoding`
and `writing` for how they become a store, `preparing` for the whole.
"""

from gan.data.preparation.preparing import Prepared, prepare_directory, verify
from gan.data.preparation.selection import Selection

__all__ = ["Prepared", "Selection", "prepare_directory", "verify"]
