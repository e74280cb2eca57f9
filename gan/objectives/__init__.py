"""The game: losses in `losses.py`, and by name the terms that are added to them."""

from gan.objectives.consistency import BalancedConsistency, LatentConsistency, LeCam
from gan.objectives.feature_terms import Classification, Contrastive, FeatureMatching, MomentMatching, Orthogonal
from gan.objectives.gradient_penalties import R1, R2, GradientPenalty
from gan.objectives.regularizers import Regularizer

__all__ = ["REGULARIZERS"]

REGULARIZERS: dict[str, type[Regularizer]] = {
    "r1": R1,
    "r2": R2,
    "gradient_penalty": GradientPenalty,
    "balanced_consistency": BalancedConsistency,
    "latent_consistency": LatentConsistency,
    "lecam": LeCam,
    "orthogonal": Orthogonal,
    "contrastive": Contrastive,
    "feature_matching": FeatureMatching,
    "moment_matching": MomentMatching,
    "classification": Classification,
}
