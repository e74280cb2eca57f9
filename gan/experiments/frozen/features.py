"""Frozen features of real images and of a fixed generator's: what the heads of the experiment see.

An extractor gives maps at four strides, 4 to 32, whose means over positions are the levels. Mixing channels and levels
by fixed random 1 × 1 convolutions, as projected discriminators do (Sauer et al. 2021, arXiv:2111.01007), commutes with
that mean: it is one random matrix for all levels together.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gan.data.store import ImageStore
from gan.errors import UserError
from gan.experiments.frozen.config import FrozenFeatures
from gan.files import atomic_path, read_array
from gan.metrics.extractors.efficientnet import EfficientNetLite0Extractor
from gan.progress import passing
from gan.sampling.generate import LoadedGenerator
from gan.seeds import seeded_generator

LEVELS = {2: 24, 4: 40, 10: 112, 15: 320}  # last blocks of EfficientNet-Lite0 at strides 4 to 32, their channels
BATCH = 50


@dataclass(frozen=True)
class Vectors:
    """Features that heads are trained on and measured on: `(n, F)` each, equally many real and fake."""

    train_real: Tensor
    train_fake: Tensor
    test_real: Tensor
    test_fake: Tensor


def levels_of_both(
    section: FrozenFeatures, store: ImageStore, generator: LoadedGenerator, device: torch.device, folder: Path
) -> tuple[Tensor, Tensor]:
    """The levels of real images and of samples, `(train + test, 496)` each, kept in `folder` for the next time.

    Raises:
        UserError: there are too few images.
    """
    count = section.train + section.test
    if count > store.num_images:
        raise UserError(
            f"features: {section.train} + {section.test} images found, {store.num_images} or fewer accepted"
        )
    extractor = EfficientNetLite0Extractor(layers=("features",)).to(device)
    identity = [store.content_hash, generator.description.digest, extractor.identity.weights, count]
    path = folder / f"levels-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        chosen = torch.randperm(store.num_images, generator=seeded_generator(0, "frozen", "images"))[:count]
        real = (torch.from_numpy(store.images[part.numpy()]).permute(0, 3, 1, 2) for part in chosen.split(BATCH))
        fake = (generator.pixels(batch.latents, batch.labels) for batch in generator.batches(count, batch_size=BATCH))
        both = [
            _levels(extractor, images, device, f"features of {kind} images")
            for kind, images in (("real", real), ("fake", fake))
        ]
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, torch.stack(both).numpy())
    real, fake = torch.from_numpy(read_array(path))
    return real, fake


@torch.no_grad()
def _levels(extractor: EfficientNetLite0Extractor, images: Iterator[Tensor], device: torch.device, what: str) -> Tensor:
    """uint8 batches `(b, 3, H, W)` → `(n, 496)`."""
    seen: list[Tensor] = []
    blocks = [extractor.network._blocks[index] for index in LEVELS]
    hooks = [block.register_forward_hook(lambda _, __, maps: seen.append(maps.mean(dim=(2, 3)))) for block in blocks]
    rows = []
    for batch in passing(images, what, "batches"):
        seen.clear()
        extractor(batch.expand(-1, 3, -1, -1).to(device))  # grey ones in all channels
        rows.append(torch.cat(seen, dim=1).float().cpu())
    for hook in hooks:
        hook.remove()
    return torch.cat(rows)


def mixed(levels: tuple[Tensor, Tensor], section: FrozenFeatures, seed: int, *, whiten: bool) -> Vectors:
    """The vectors v that heads see: levels of equal weight, mixed at random, centred, and of E‖v‖² = F.

    Args:
        levels: of real and fake images, `(n, 496)` each.
        section: how many are to train on, and F.
        seed: of the mixing matrix.
        whiten: whether their covariance, over training vectors of both kinds, is made the identity.
    """
    both = torch.stack(levels).double()  # (2, n, 496)
    random = seeded_generator(seed, "frozen", "mixing")
    vectors = torch.zeros(*both.shape[:2], section.width, dtype=both.dtype)
    for level in both.split([*LEVELS.values()], dim=-1):
        spread = level.flatten(0, 1).var(0).sum().sqrt()
        vectors += level / spread @ torch.randn(level.shape[-1], section.width, generator=random).double()
    train = vectors[:, : section.train].flatten(0, 1)
    vectors = vectors - train.mean(0)
    values, basis = torch.linalg.eigh(torch.cov(train.T, correction=0))
    if whiten:
        vectors = vectors @ (basis * values.clamp_min(values.max() * 1e-10).rsqrt()) @ basis.T
    else:
        vectors = vectors * (section.width / values.sum()).sqrt()
    real, fake = vectors.float()
    return Vectors(real[: section.train], fake[: section.train], real[section.train :], fake[section.train :])
