"""What `throughput.py` races: the textbook's iteration, ours, and ours with one measure switched off."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks import textbook, textbook_biggan
from gan.build import build_game, image_facts
from gan.config import load_config
from gan.data.loader import Loader
from gan.data.store import ImageStore
from gan.device import resolve_precision
from gan.models.blocks import layers
from gan.training import steps as training_steps
from gan.training.ema import ExponentialMovingAverage
from gan.training.steps import Game, discriminator_step, generator_step

CONFIGS = Path(__file__).parents[1] / "configs" / "cifar10"
CLASSES = 10
DISCRIMINATOR_STEPS = 5

Run = tuple[Callable[[], Any], Callable[[], AbstractContextManager[Any]]]  # an iteration, and what it runs in
Batch = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Setting:
    """What is raced: `model` is sngan, biggan or r3gan; widths of G and D (as the configs count them)."""

    model: str
    generator_width: int
    discriminator_width: int
    batch: int
    device: torch.device

    @property
    def overrides(self) -> list[str]:
        return [
            f"generator.width={self.generator_width}",
            f"discriminator.backbone.width={self.discriminator_width}",
            "training.precision=auto",
            "schedules={}",  # some settings that move are not for graphs
        ]


class PillowImages(Dataset[tuple[Tensor, int]]):
    """CIFAR-sized images as a torchvision data set gives them: PIL, flipped, to a tensor, normalised."""

    def __init__(self, store: ImageStore) -> None:
        from torchvision import transforms

        self.store = store
        self.transform = transforms.Compose(
            [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        )

    def __len__(self) -> int:
        return self.store.num_images

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.store.images[index])), index % CLASSES


def synthetic_store(count: int = 10_000, side: int = 32) -> ImageStore:
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    names = tuple(str(label) for label in range(CLASSES))
    return ImageStore(images, np.arange(count) % CLASSES, names, "synthetic", "benchmark", "train")


def workers_batches(store: ImageStore, batch: int, device: torch.device) -> Callable[[], Batch]:
    """Batches from a `DataLoader` with two worker processes."""
    loader = DataLoader(
        PillowImages(store), batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )

    def endless() -> Iterator[Batch]:
        while True:
            for images, labels in loader:
                yield images.to(device), labels.to(device)

    return endless().__next__


class Ours:
    """Our iteration, as the trainer plays it."""

    def __init__(self, setting: Setting, store: ImageStore, *overrides: str) -> None:
        config = load_config(CONFIGS / f"{setting.model}_cr.yaml", [*setting.overrides, *overrides])
        self.discriminator_steps = config.training.discriminator_steps
        device = setting.device
        self.game: Game = build_game(config, image_facts(config), device)
        self.ema = ExponentialMovingAverage(self.game.generator, config.ema.decay)
        layout = config.training.channels_last
        loader = Loader(store, setting.batch, device, flip=True, seed=0, channels_last=layout)
        self.next_batch: Callable[[], Batch] = loader.next_batch
        self.latents = torch.randn(setting.batch, config.generator.latent_dim, device=device)
        self.labels = torch.arange(setting.batch, device=device) % CLASSES if config.conditional else None
        self.step = 0

    def batch(self) -> Batch:
        images, labels = self.next_batch()
        return images, None if self.labels is None else labels

    def iterate(self) -> None:
        for _ in range(self.discriminator_steps):
            images, labels = self.batch()
            discriminator_step(self.game, images, labels, self.latents, self.labels)
        generator_step(self.game, self.latents, self.labels, images, labels)
        self.step += 1
        self.ema.update(self.step)


def textbook_iteration(setting: Setting, store: ImageStore) -> Callable[[], None]:
    generator: torch.nn.Module
    discriminator: torch.nn.Module
    labels: tuple[Tensor, ...]
    if setting.model == "biggan":  # the configs' width at 32 is a quarter of the blocks'
        latent_dim, labels = 80, (torch.arange(setting.batch, device=setting.device) % CLASSES,)
        generator = textbook_biggan.Generator(4 * setting.generator_width, latent_dim, CLASSES)
        discriminator = textbook_biggan.Discriminator(4 * setting.discriminator_width, CLASSES)
    else:
        latent_dim, labels = 128, ()
        generator = textbook.Generator(setting.generator_width, latent_dim)
        discriminator = textbook.Discriminator(setting.discriminator_width)
    game = textbook.Textbook(generator, discriminator, setting.device)
    latents = torch.randn(setting.batch, latent_dim, device=setting.device)
    next_batch = workers_batches(store, setting.batch, setting.device)
    return lambda: game.iterate(next_batch()[0], latents, DISCRIMINATOR_STEPS, *labels)


@contextmanager
def replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


@contextmanager
def resampling_apart() -> Iterator[None]:
    """Resampling and convolution one after the other."""

    def upsample(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(F.interpolate(maps, scale_factor=2.0), weight, bias, padding=weight.shape[-1] // 2)

    def pool(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.avg_pool2d(F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2), 2)

    with replaced(layers, "upsample_convolve", upsample), replaced(layers, "convolve_pool", pool):
        yield


def minimise(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def two_passes(*, graph: bool) -> AbstractContextManager[None]:
    """Real and fake images scored one after the other; with `graph`, the generator's pass records one as well."""

    def step(game: Game, real: Tensor, real_labels: Tensor | None, latents: Tensor, labels: Tensor | None) -> None:
        with game.autocast():
            with torch.set_grad_enabled(graph):
                fake = game.generator(latents, labels).detach()
            game.update_spectral_norms(game.discriminator)
            scores = game.discriminator(real, real_labels), game.discriminator(fake, labels)
        loss = training_steps.weighted_mean(game.loss.discriminator_loss(*scores), game.stage_weights())
        minimise(loss, game.discriminator_optimizer)

    return replaced(sys.modules[__name__], "discriminator_step", step)


def all_gradients() -> AbstractContextManager[None]:
    """The generator's step computes gradients of the discriminator's weights as well."""

    def step(game: Game, latents: Tensor, labels: Tensor | None, *_: Tensor | None) -> None:
        game.update_spectral_norms(game.generator)
        with game.autocast():
            scores = game.discriminator(game.generator(latents, labels), labels)
        loss = training_steps.weighted_mean(game.loss.generator_loss(scores), game.stage_weights().detach())
        minimise(loss, game.generator_optimizer)

    return replaced(sys.modules[__name__], "generator_step", step)


def plain_adam(ours: Ours) -> AbstractContextManager[None]:
    """Adam parameter by parameter."""
    groups = [*ours.game.generator_optimizer.param_groups, *ours.game.discriminator_optimizer.param_groups]

    @contextmanager
    def switched() -> Iterator[None]:
        for group in groups:
            group.update(fused=False, foreach=False)
        yield
        for group in groups:
            group.update(fused=True, foreach=None)

    return switched()


def contestants(setting: Setting, *, compiled: bool, ablate: bool) -> dict[str, Run]:
    """Name → (an iteration, the context it runs in)."""
    store = synthetic_store()
    ours = Ours(setting, store)
    runs: dict[str, Run] = {"textbook": (textbook_iteration(setting, store), nullcontext)}
    runs["ours"] = (ours.iterate, nullcontext)
    if compiled:
        runs["ours, compiled"] = (Ours(setting, store, "training.compile=true").iterate, nullcontext)
    if not ablate:
        return runs
    runs["ours, resampling apart"] = (ours.iterate, resampling_apart)
    runs["ours, two passes in D"] = (ours.iterate, lambda: two_passes(graph=False))
    runs["ours, and a graph through G"] = (ours.iterate, lambda: two_passes(graph=True))
    runs["ours, all gradients in G"] = (ours.iterate, all_gradients)
    runs["ours, plain Adam"] = (ours.iterate, lambda: plain_adam(ours))
    runs["ours, contiguous"] = (Ours(setting, store, "training.channels_last=false").iterate, nullcontext)
    workers = Ours(setting, store)
    workers.next_batch = workers_batches(store, setting.batch, setting.device)
    runs["ours, DataLoader"] = (workers.iterate, nullcontext)
    if resolve_precision("auto", setting.device) == "bfloat16":
        runs["ours, float32"] = (Ours(setting, store, "training.precision=float32").iterate, nullcontext)
    return runs
