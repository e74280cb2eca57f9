"""Heads: feature vectors `(B, F)` and labels `(B,)` or None → scores `(B, stages)`.

A head is the last layer of a discriminator; every column of its scores receives an adversarial loss of its own.
"""

from gan.models.heads.cascading import CascadingRejection, EnergyCascade, IndependentHeads
from gan.models.heads.interface import Head
from gan.models.heads.linear import AuxiliaryClassifierHead, LinearHead, ProjectionHead
from gan.models.heads.slicing import MultidimensionalCritic, SlicedCascade, SlicingHead

__all__ = [
    "HEADS",
    "AuxiliaryClassifierHead",
    "CascadingRejection",
    "EnergyCascade",
    "Head",
    "IndependentHeads",
    "LinearHead",
    "MultidimensionalCritic",
    "ProjectionHead",
    "SlicedCascade",
    "SlicingHead",
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
    "multidimensional": MultidimensionalCritic,
}
