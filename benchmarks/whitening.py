"""Does whitening help retrieval? Nearest training images by cosine before and after it, for many dimensions k.

`python benchmarks/whitening.py --train ../shared/data/cifar10_train.npz --test ../shared/data/cifar10_test.npz`
writes docs/results/whitening.md. Whitening is fitted on the gallery alone.
"""

import platform
import sys
import time
from pathlib import Path

import click
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from gan.allocator import keep_freed_memory
from gan.audits.features import audit_extractor, real_features
from gan.audits.neighbours import nearest_neighbours
from gan.audits.whitening import fit_whitening
from gan.commands.scoring import evenly
from gan.data.store import ImageStore, prepare
from gan.device import resolve_device
from gan.files import write_text
from gan.metrics.reference import content_hash

COMPONENTS = (8, 16, 32, 64, 128, 256, 512, 1024, 1280)
RESULT = Path(__file__).parents[1] / "docs" / "results" / "whitening.md"
PRECISION_AT = 10


def quality(queries: Tensor, gallery: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> tuple[float, float]:
    """Same-class precision among the nearest 10, and Spearman's ρ of cosine with label agreement over all pairs."""
    found = nearest_neighbours(queries, gallery, PRECISION_AT).indices
    precision = (gallery_labels[found] == query_labels[:, None]).double().mean()
    cosines = F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    agreement = query_labels[:, None] == gallery_labels
    return float(precision), float(spearmanr(cosines.flatten().numpy(), agreement.flatten().numpy()).statistic)


def rows_of(name: str, gallery: np.ndarray, queries: np.ndarray, labels: tuple[Tensor, Tensor]) -> list[str]:
    """The table's rows of one extractor."""
    rows = []

    def add(space: str, dimensions: int, share: float, one: Tensor, other: Tensor) -> None:
        started = time.perf_counter()
        nearest_neighbours(one, other, PRECISION_AT)
        seconds = time.perf_counter() - started
        precision, rho = quality(one, other, *labels)
        rows.append(
            f"| {name} | {space} | {dimensions} | {100 * share:.1f} % | {precision:.4f} | {rho:.4f} | {seconds:.2f} s |"
        )
        click.echo(rows[-1])

    raw = torch.from_numpy(np.array(queries)), torch.from_numpy(np.array(gallery))
    add("as extracted", gallery.shape[1], 1, *raw)
    mean = raw[1].mean(dim=0)
    add("centred", gallery.shape[1], 1, raw[0] - mean, raw[1] - mean)
    rank = fit_whitening(gallery).components
    for components in sorted({min(count, rank) for count in COMPONENTS}):
        whitening = fit_whitening(gallery, components)
        scale = torch.linalg.vector_norm(whitening.projection, dim=0).reciprocal().float()  # Λ^{1/2}: projection only
        one, other = whitening.transform(queries), whitening.transform(gallery)
        add("principal components", components, whitening.variance_share, one * scale, other * scale)
        add("whitened", components, whitening.variance_share, one, other)
    return rows


def features_and_labels(store: ImageStore, count: int, name: str, device: torch.device) -> tuple[np.ndarray, Tensor]:
    """Features and labels of `count` images at even distances."""
    images = np.ascontiguousarray(evenly(store.images, count))
    assert store.labels is not None
    directory = Path("outputs/data/features")
    extractor = audit_extractor(name, None, device)
    features = real_features(extractor, images, content_hash(images), directory, 50, device)
    return features, torch.from_numpy(np.array(evenly(store.labels, count)))


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
        gallery_features, gallery_labels = features_and_labels(train, gallery, name, place)
        query_features, query_labels = features_and_labels(test, queries, name, place)
        rows += rows_of(name, gallery_features, query_features, (query_labels, gallery_labels))
    head = [
        "# Retrieval before and after whitening",
        "",
        f"`python benchmarks/whitening.py`: {queries:,} test images of {test.split} against {gallery:,} training images",
        f"of {train.split}, both at even distances; cosine similarity; whitening fitted on the gallery. torch",
        f"{torch.__version__}, {platform.machine()}, {torch.get_num_threads()} thread(s).",
        f"Precision: share of the {PRECISION_AT} nearest that have the query's class (chance 0.1). Spearman's ρ: between",
        "similarity and agreement of labels, over all pairs. Search: seconds for all queries, one run.",
        "",
        "| features | space | dimensions | variance kept | precision@10 | Spearman's ρ | search |",
        "|---|---|---|---|---|---|---|",
    ]
    write_text(out, "\n".join([*head, *rows]) + "\n")


if __name__ == "__main__":
    main()
