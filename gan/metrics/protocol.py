"""How a number was measured. Two numbers may be compared only when they were measured alike."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter

from gan.errors import UserError, nearest


@dataclass(frozen=True)
class ReferenceIdentity:
    """Which real images: `content_hash` covers them and their order, `image_shape` is (C, H, W)."""

    name: str
    split: str
    content_hash: str
    count: int
    image_shape: tuple[int, int, int]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ReferenceIdentity":
        """The inverse of `dataclasses.asdict`, also after JSON made a list of the shape.

        Raises:
            UserError: a key is missing or unknown.
        """
        checked = _check_keys(cls, values)
        height_width = tuple(int(size) for size in checked["image_shape"])
        return cls(**{**checked, "image_shape": height_width})


@dataclass(frozen=True)
class ExtractorIdentity:
    """What makes two extractors give the same features: their name, weights, resizing and arithmetic."""

    name: str
    weights: str  # SHA-256 over its tensors
    resize: str
    dtype: str


@dataclass(frozen=True)
class Protocol:
    """Everything that a score depends on, other than the generator.

    Library versions are recorded but do not take part in `==` or `differences`: an upgrade must not cut a comparison
    off from its earlier arms, and the numbers are tested against torch-fidelity. `version_differences` lists them.

    A field that is added later has as its default what was in force before, so that saved results stay readable.
    """

    extractor: str  # "inception" only with the official weights
    extractor_weights: str  # SHA-256 over its tensors
    layer: str  # of the Fréchet and kernel distances
    logits_layer: str | None  # of the inception score; None where the extractor has no logits
    resize: str
    dtype: str  # of the extractor's arithmetic
    reference: ReferenceIdentity
    generated_count: int
    seed: int | None  # of latents and labels; None for given images
    weights: str  # "ema", "raw", or "images" when no generator was involved
    batch_norm: str  # which statistics the generator normalises by: "running" or "batch"; "none" for given images
    label_sampling: str  # how the generator's labels were drawn: "none", "uniform", "reference"
    inception_splits: int
    kernel_subsets: int
    kernel_subset_size: int
    kernel_reference_count: int  # reference features that the kernel distance draws its subsets from
    metric_seed: int  # of the inception score's shuffle, the kernel distance's subsets and every other draw
    precision_neighbours: int  # k of precision and recall
    coverage_neighbours: int  # k of density and coverage
    neighbour_count: int  # generated features that both see
    neighbour_reference_count: int
    infinity_points: int  # sample counts that the line of FID∞ goes through
    mind_projections: int = 1000  # directions of MIND
    versions: Mapping[str, str] = field(default_factory=dict, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = asdict(self)
        values["versions"] = dict(self.versions)
        values["reference"]["image_shape"] = list(self.reference.image_shape)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Protocol":
        """The inverse of `to_dict`.

        Raises:
            UserError: a key is missing or unknown.
            ValueError: a value is of another type.
        """
        checked = _check_keys(cls, values)
        reference = asdict(ReferenceIdentity.from_dict(checked["reference"]))
        return _READER.validate_python({**checked, "reference": reference})


_READER = TypeAdapter(Protocol)


def differences(first: Protocol, second: Protocol) -> list[str]:
    """The fields that differ, without versions; those of the reference as `reference.split`."""
    return [name for name, value in _flatten(first).items() if value != _flatten(second)[name]]


def version_differences(first: Protocol, second: Protocol) -> list[str]:
    """The libraries whose versions differ, or that only one of the two recorded."""
    names = sorted({*first.versions, *second.versions})
    return [name for name in names if first.versions.get(name) != second.versions.get(name)]


def require_same(first: Protocol, second: Protocol) -> None:
    """Refuse to compare results that were not measured alike.

    Raises:
        UserError: names each field that differs, with both values.
    """
    differing = differences(first, second)
    if differing:
        one, other = _flatten(first), _flatten(second)
        listed = "; ".join(f"{name}: {one[name]} and {other[name]}" for name in differing)
        raise UserError(f"results of different protocols cannot be compared: {listed}")


def _flatten(protocol: Protocol) -> dict[str, Any]:
    values = {f.name: getattr(protocol, f.name) for f in fields(protocol) if f.compare and f.name != "reference"}
    return values | {f"reference.{f.name}": getattr(protocol.reference, f.name) for f in fields(protocol.reference)}


def _check_keys(cls: type[Protocol] | type[ReferenceIdentity], values: Mapping[str, Any]) -> Mapping[str, Any]:
    names = [f.name for f in fields(cls)]
    for unknown in values.keys() - set(names):
        raise UserError(f"unknown protocol field '{unknown}'{nearest(unknown, names)}")
    optional = {f.name for f in fields(cls) if f.default is not MISSING or f.default_factory is not MISSING}
    for missing in set(names) - values.keys() - optional:
        raise UserError(f"protocol field '{missing}' is missing: the result is of an earlier version, measure again")
    return values
