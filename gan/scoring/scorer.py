"""Scores of a generator by the protocol its config asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gan import distributed
from gan.config import Config
from gan.data.store import ImageStore
from gan.device import Autocast, make_autocast, resolve_precision
from gan.errors import UserError
from gan.metrics.evaluator import Evaluator
from gan.metrics.extractors.catalogue import build_extractor, require_known
from gan.metrics.reference import ReferenceStatistics
from gan.metrics.results import Result
from gan.sampling.generate import generate
from gan.sampling.latents import LatentStream, evaluation_latents
from gan.scoring.reference_images import evenly, measure_reference, reference_images
from gan.seeds import seeded_generator

_SKIPPED = 8192  # latents in memory at a time


@dataclass
class Scorer:
    """Scores generators of one config; its extractor and reference are read once.

    Args:
        config: the run's.
        class_names: of the labels that the generators take; empty where they take none.
        device: where images are generated and scored.

    Raises:
        UserError: the extractor's weights cannot be had, or the reference images, or these have other classes where
            classes count.
    """

    config: Config
    class_names: Sequence[str]
    device: torch.device

    def __post_init__(self) -> None:
        section = self.config.evaluation
        require_known(section.extractor, "evaluation.extractor")
        extractor = build_extractor(
            section.extractor,
            weights=section.weights,
            device=self.device,
            expected_sha256=section.weights_sha256,
            resize=section.resize,
        )
        self._evaluator = Evaluator(
            extractor,
            self.device,
            section.metrics,
            section.batch_size,
            distributed.is_main(),
            bootstrap=section.bootstrap,
            dtype=section.dtype,
            compiled=section.compile,
        )
        self._store = store = reference_images(self.config.data, section.reference, section.reference_path)
        self._label_pool: Tensor | None = None
        if "intra_fid" in section.metrics:
            self._require_classes("metrics: intra_fid")
        if section.label_sampling == "reference" and self.class_names:
            self._require_classes("label_sampling: reference")
            self._label_pool = torch.from_numpy(np.array(store.labels))

    def _require_classes(self, setting: str) -> None:
        """Check that generator and reference have the same classes, by which a setting of the config goes."""
        if not self.class_names:
            raise UserError(f"evaluation.{setting} found, but the generator takes no labels")
        if not self._store.has_labels:
            raise UserError(f"evaluation.{setting} found, but the reference has no labels")
        require_same_classes("the generator's", self.class_names, "the reference's", self._store.class_names)

    @cached_property
    def _reference(self) -> ReferenceStatistics:
        """Features of the real images: measured, or read, when the first score needs them."""
        count, root = self.config.evaluation.reference_samples, Path(self.config.data.root)
        return measure_reference(self._evaluator, self._store, count, root)

    def score(self, generator: nn.Module, weights: str) -> Result:
        """Score `generator`, which is left as it was, as are all random states; `weights` says whose: ema or raw."""
        section = self.config.evaluation
        given: list[Tensor] = []
        num_classes = len(self.class_names) or None
        sampler = generator_sampler(self.config, num_classes, generator, given, self._label_pool)
        return self._evaluator.evaluate(
            sampler,
            section.samples,
            self._reference,
            seed=section.seed,
            weights=weights,
            label_sampling="none" if num_classes is None else section.label_sampling,
            labels=None if num_classes is None else lambda: torch.cat(given),
            skip=sampler.skip,
        )

    def score_real(self, store: ImageStore) -> Result:
        """Score as many real images of `store` as there would be samples, at even distances."""
        return self._evaluator.evaluate_images(evenly(store.images, self.config.evaluation.samples), self._reference)


def require_same_classes(whose: str, names: Sequence[str], others: str, other_names: Sequence[str]) -> None:
    """Refuse to compare class by class what has other classes, or the same in another order."""
    if list(names) == list(other_names):
        return
    for label, (one, other) in enumerate(zip_longest(names, other_names, fillvalue="none")):
        if one != other:
            raise UserError(f"classes: {whose} label {label} is {one!r}, {others} is {other!r}; the same ones accepted")


@dataclass
class GeneratorSampler:
    """n → n images of `generator`; the labels they were given are added to `given`."""

    generator: nn.Module
    stream: LatentStream
    label_pool: Tensor | None
    label_random: torch.Generator
    given: list[Tensor]
    autocast: Autocast

    def __call__(self, count: int) -> Tensor:
        return generate(self.generator, *self._draw(count), self.autocast)

    def skip(self, count: int) -> None:
        """Pass over `count` images without generating them; their labels are added all the same."""
        for start in range(0, count, _SKIPPED):
            self._draw(min(_SKIPPED, count - start))

    def _draw(self, count: int) -> tuple[Tensor, Tensor | None]:
        latents, labels = self.stream.next(count)
        if labels is not None:
            if self.label_pool is not None:
                labels = self.label_pool[torch.randint(len(self.label_pool), (count,), generator=self.label_random)]
            self.given.append(labels)
        return latents, labels


def generator_sampler(
    config: Config,
    num_classes: int | None,
    generator: nn.Module,
    given: list[Tensor],
    label_pool: Tensor | None = None,
) -> GeneratorSampler:
    """n → n images of `generator` by the config's evaluation seed; the labels they were given are added to `given`.

    Args:
        label_pool: labels to draw from, as often as they are there; None for uniform ones.
    """
    seed = config.evaluation.seed
    stream = evaluation_latents(config.generator.latent_dim, num_classes, seed)
    device = next(generator.parameters()).device
    autocast = make_autocast(resolve_precision(config.training.precision, device), device)
    label_random = seeded_generator(seed, "evaluation labels")
    return GeneratorSampler(generator, stream, label_pool, label_random, given, autocast)
