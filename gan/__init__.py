"""GANs around cascading-rejection discriminators. `gan.load` gives a trained generator."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from gan.sampling.generate import LoadedGenerator

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(
    path: "str | Path",
    *,
    step: 'int | Literal["best"] | None' = None,
    weights: Literal["ema", "raw"] | None = None,
    device: str = "auto",
) -> "LoadedGenerator":
    """The generator of a run, a checkpoint file or an exported folder, ready to `.sample(n, labels=None, seed=0)`.

    See `gan.sampling.open.open_generator` for the arguments and errors.
    """
    from gan.sampling.open import open_generator  # here, so that `import gan` stays light

    return open_generator(path, step=step, weights=weights, device=device)
