"""Does whitening help retrieval? Nearest training images by cosine before and after it, for many dimensions k.

Two tasks: find images of the query's class, and find the original of an altered copy.

`python benchmarks/whitening.py --train cifar10_train.npz --test cifar10_test.npz`
writes docs/results/whitening.md. Whitening is fitted on the gallery alone.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from gan.allocator import keep_freed_memory
from gan.data.store import ImageStore, prepare
from gan.device import resolve_device
from gan.files import write_text
from gan.metrics.audits.features import audit_extractor, real_features
from gan.metrics.audits.memorisation import NEXT, duplicates, relative_distances
from gan.metrics.audits.neighbours import nearest_neighbours
from gan.metrics.audits.whitening import fit_whitening
from gan.metrics.reference import content_hash
from gan.scoring.reference_images import evenly

COMPONENTS = (8, 16, 32, 64, 128, 256, 512, 1024, 1280)
RESULT = Path(__file__).parents[1] / "docs" / "results" / "whitening.md"
PRECISION_AT = 10
QUANTILE = 0.01  # of test images that are as near as a copy that counts as found
HEAD = """# Retrieval before and after whitening

`python benchmarks/whitening.py --train {train}.npz --test {test}.npz`: {queries} test images ({test}) against a
gallery of {gallery} training images
({train}), both at even distances; cosine similarity; whitening fitted on the gallery; torch {torch}.

- P@10, precision: share of the 10 nearest that have the query's class (chance 0.1).
- ρ, Spearman's: between similarity and agreement of labels, over all pairs.
- original first: {queries} gallery images were moved by up to 2 pixels, half of them flipped, their contrast changed by
  up to 20 %, and given noise of σ = 8; this share has its original as the nearest gallery image.
- by distance, by ratio: the share of those copies that is at least as near to the gallery as the nearest
  1 % of test images are; by the distance to the nearest image, or by that over the mean distance to the next four.
- search: seconds for all queries, one run.

| features | space | dimensions | variance kept | P@10 | ρ | original first | by distance | by ratio | search |
|---|---|---|---|---|---|---|---|---|---|
"""


def quality(queries: Tensor, gallery: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> tuple[float, float]:
    """Same-class precision among the nearest 10, and Spearman's ρ of cosine with label agreement over all pairs."""
    found = nearest_neighbours(queries, gallery, PRECISION_AT).indices
    precision = (gallery_labels[found] == query_labels[:, None]).double().mean()
    cosines = F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    agreement = query_labels[:, None] == gallery_labels
    return float(precision), float(spearmanr(cosines.flatten().numpy(), agreement.flatten().numpy()).statistic)


def copies_found(copies: Tensor, queries: Tensor, gallery: Tensor, originals: Tensor) -> list[float]:
    """Share of copies whose nearest training image is their original, and shares that the audit calls duplicates."""
    found, held = (nearest_neighbours(images, gallery, 1 + NEXT) for images in (copies, queries))
    first = float((found.indices[:, 0] == originals).double().mean())
    one, other = (neighbours.distances[:, 0].double().numpy() for neighbours in (found, held))
    by_distance = duplicates(one, other, QUANTILE).share
    return [first, by_distance, duplicates(relative_distances(found), relative_distances(held), QUANTILE).share]


def altered(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Copies of uint8 images `(N, H, W, C)`: moved by up to 2 pixels, flipped or not, contrast ± 20 %, noise σ = 8."""
    random = np.random.default_rng(seed)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect").astype(np.float64)
    size = images.shape[1]
    copies = np.empty(images.shape)
    for index, (top, left) in enumerate(random.integers(0, 5, size=(len(images), 2))):
        copies[index] = padded[index, top : top + size, left : left + size]
        if random.random() < 0.5:
            copies[index] = copies[index, :, ::-1]
    contrast = random.uniform(0.8, 1.2, size=(len(images), 1, 1, 1))
    mean = copies.mean(axis=(1, 2, 3), keepdims=True)
    copies = mean + contrast * (copies - mean) + random.normal(0, 8, size=images.shape)
    return copies.round().clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Sets:
    """Features `(N, F)` of three sets of images, labels of two, and which of the gallery each copy is of."""

    gallery: np.ndarray
    queries: np.ndarray
    copies: np.ndarray
    gallery_labels: Tensor
    query_labels: Tensor
    originals: Tensor


def rows_of(name: str, sets: Sets) -> list[str]:
    """The table's rows of one extractor."""
    rows = []
    gallery = sets.gallery

    def add(space: str, dimensions: int, share: float, one: Tensor, other: Tensor, copies: Tensor) -> None:
        started = time.perf_counter()
        nearest_neighbours(one, other, PRECISION_AT)
        seconds = time.perf_counter() - started
        precision, rho = quality(one, other, sets.query_labels, sets.gallery_labels)
        shares = " | ".join(f"{100 * share:.1f} %" for share in copies_found(copies, one, other, sets.originals))
        rows.append(
            f"| {name} | {space} | {dimensions} | {100 * share:.1f} % | {precision:.4f} | {rho:.4f} "
            f"| {shares} | {seconds:.2f} s |"
        )
        click.echo(rows[-1])

    raw = [torch.from_numpy(np.array(features)) for features in (sets.queries, gallery, sets.copies)]
    add("as extracted", gallery.shape[1], 1, *raw)
    mean = raw[1].mean(dim=0)
    add("centred", gallery.shape[1], 1, *(features - mean for features in raw))
    rank = fit_whitening(gallery).components
    for components in sorted({min(count, rank) for count in COMPONENTS}):
        whitening = fit_whitening(gallery, components)
        scale = torch.linalg.vector_norm(whitening.projection, dim=0).reciprocal().float()  # Λ^{1/2}: projection only
        white = [whitening.transform(features) for features in (sets.queries, gallery, sets.copies)]
        add("principal components", components, whitening.variance_share, *(features * scale for features in white))
        add("whitened", components, whitening.variance_share, *white)
    return rows


def measure_sets(train: ImageStore, test: ImageStore, counts: tuple[int, int], name: str, device: torch.device) -> Sets:
    """Features of gallery, queries and copies of as many gallery images as there are queries."""
    extractor = audit_extractor(name, None, device)

    def features(images: np.ndarray) -> np.ndarray:
        return real_features(extractor, images, content_hash(images), Path("outputs/data/features"), 50, device)

    assert train.labels is not None and test.labels is not None
    gallery = np.ascontiguousarray(evenly(train.images, counts[0]))
    queries = np.ascontiguousarray(evenly(test.images, counts[1]))
    originals = np.arange(counts[1]) * counts[0] // counts[1]
    return Sets(
        features(gallery),
        features(queries),
        features(altered(gallery[originals])),
        torch.from_numpy(np.array(evenly(train.labels, counts[0]))),
        torch.from_numpy(np.array(evenly(test.labels, counts[1]))),
        torch.from_numpy(originals),
    )


@click.command()
@click.option("--train", "train_path", required=True, help="npz of the gallery.")
@click.option("--test", "test_path", required=True, help="npz of the queries.")
@click.option("--gallery", default=5000, show_default=True, help="Training images, at even distances.")
@click.option("--queries", default=1000, show_default=True, help="Test images, at even distances.")
@click.option("--device", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(train_path: str, test_path: str, gallery: int, queries: int, device: str, out: Path) -> None:
    """Measure retrieval before and after whitening."""
    keep_freed_memory()
    place = resolve_device(device)
    train, test = (prepare("npz", path=path, split=Path(path).stem) for path in (train_path, test_path))
    rows: list[str] = []
    for name in ("efficientnet_lite0", "pixels"):
        rows += rows_of(name, measure_sets(train, test, (gallery, queries), name, place))
    head = HEAD.format(
        queries=f"{queries:,}", gallery=f"{gallery:,}", test=test.split, train=train.split, torch=torch.__version__
    )
    write_text(out, head + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
