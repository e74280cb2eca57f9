"""Heads: feature vectors `(B, F)` and labels `(B,)` or None → scores `(B, stages)`.

A head is the last layer of a discriminator; every column of its scores receives an adversarial loss of its own.
"""

from gan.models.heads.base import Cascade
from gan.models.heads.cascading import CascadingRejection, EnergyCascade, IndependentHeads
from gan.models.heads.interface import Head
from gan.models.heads.linear import AuxiliaryClassifierHead, LinearHead, ProjectionHead
from gan.models.heads.slicing import MultidimensionalCritic, SlicedCascade, SlicingHead
from gan.models.heads.two_questions import TwoQuestions

__all__ = [
    "HEADS",
    "AuxiliaryClassifierHead",
    "Cascade",
    "CascadingRejection",
    "EnergyCascade",
    "Head",
    "IndependentHeads",
    "LinearHead",
    "MultidimensionalCritic",
    "ProjectionHead",
    "SlicedCascade",
    "SlicingHead",
    "TwoQuestions",
]

HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "projection": ProjectionHead,
    "auxiliary_classifier": AuxiliaryClassifierHead,
    "cascading_rejection": CascadingRejection,
    "independent": IndependentHeads,
    "energy_cascade": EnergyCascade,
    "san": SlicingHead,
    "sliced_cascade": SlicedCascade,
    "two_questions": TwoQuestions,
    "multidimensional": MultidimensionalCritic,
}
