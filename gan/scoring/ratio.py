"""How far a run's samples are from the reference, as multiples of how far its real images are, over feature spaces."""

from collections.abc import Sequence
from dataclasses import dataclass

from gan.build import prepare_images
from gan.config import Config
from gan.data.store import ImageStore
from gan.errors import UserError
from gan.metrics.protocol import Protocol
from gan.metrics.results import frechet_ratios
from gan.sampling.generate import LoadedGenerator
from gan.scoring.reference_images import reference_images
from gan.scoring.scorer import Scorer


@dataclass(frozen=True)
class SpaceRatio:
    """FD(samples, reference) / FD(training images, reference) in one feature space, and how the first was measured."""

    ratio: float
    protocol: Protocol


def run_frechet_ratios(generator: LoadedGenerator, extractors: Sequence[str]) -> dict[str, SpaceRatio]:
    """The ratios of a run by feature space; their mean is its FDr.

    As many training images as there are samples, at even distances, are what a perfect generator would come to. The
    rest of the protocol is that of the run's `evaluation` section.

    Raises:
        UserError: the reference is the training images themselves, or there are fewer of these than samples.
    """
    config = generator.config
    training = comparable_images(config)
    generated, real = [], []
    for name in extractors:
        asked = {"extractor": name, "weights": None, "weights_sha256": None, "metrics": ["fid"], "bootstrap": 0}
        section = config.evaluation.model_copy(update=asked)
        scorer = Scorer(config.model_copy(update={"evaluation": section}), generator.class_names, generator.device)
        generated.append(scorer.score(generator.network, generator.description.weights))
        real.append(scorer.score_real(training))
    ratios = frechet_ratios(generated, real)
    protocols = [result.protocol for result in generated]
    return {name: SpaceRatio(ratios[one.extractor], one) for name, one in zip(extractors, protocols, strict=True)}


def comparable_images(config: Config) -> ImageStore:
    """The training images of a run whose FDr can be taken.

    Raises:
        UserError: as `run_frechet_ratios`.
    """
    section, training = config.evaluation, prepare_images(config.data)
    if training.num_images < section.samples:
        raise UserError(
            f"evaluation.samples: {section.samples:,} found; for FDr up to the number of training images, "
            f"{training.num_images:,}, accepted"
        )
    if reference_images(config.data, section.reference, section.reference_path).content_hash == training.content_hash:
        raise UserError(
            f"evaluation.reference: {section.reference} found, the training images; for FDr others accepted"
        )
    return training
