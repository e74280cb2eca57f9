"""The evaluator against torch-fidelity, its Fréchet distance against eigvals and sqrtm, and its memory.

`python benchmarks/evaluator.py [--count 2000] [--device cuda] [--no-compile]`. One process, the same images, the same
Inception network with seeded random weights. The time to compile counts. Memory is measured in a process of its own.
"""

import multiprocessing
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import scipy.linalg
import torch
import torch_fidelity
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode
from torch_fidelity import feature_extractor_inceptionv3 as inception
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.throughput import convolution_rate, product_rate
from gan.allocator import keep_freed_memory
from gan.device import resolve_device
from gan.metrics.evaluator import Evaluator
from gan.metrics.extractors.catalogue import build_extractor
from gan.metrics.extractors.weights import file_sha256
from gan.metrics.formulas import frechet_distance

NAMES = {
    "frechet_distance": "frechet_inception_distance",
    "inception_score_mean": "inception_score_mean",
    "kernel_distance_mean": "kernel_inception_distance_mean",
}


class Untrained(inception.FeatureExtractorInceptionV3):
    """torch-fidelity's Inception-v3 before it has loaded anything."""

    def load_state_dict(self, state_dict: object, strict: bool = True, assign: bool = False) -> None:
        """Keep the initial weights."""


class Images(Dataset):
    """uint8 images `(N, H, W, 3)` as torch-fidelity reads them."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class Synthetic(FeatureExtractorBase):
    """Features of Inception's sizes, without its arithmetic."""

    def __init__(self) -> None:
        super().__init__("synthetic", ["features", "logits"])
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Parameter(torch.randn(48, 2048, generator=generator) / 100, requires_grad=False)
        self.logits = nn.Parameter(torch.randn(48, 1008, generator=generator) / 100, requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 `(B, 3, 4, 4)` → `(B, 2048)`, `(B, 1008)`."""
        flat = images.float().flatten(1) / 8
        return (flat @ self.features).sin(), flat @ self.logits

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The names of the layers."""
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The layer of a metric."""
        return "logits" if metric == "isc" else "features"


def save_random_inception(path: Path) -> None:
    """Random convolutions and statistics: features are finite and varied."""
    generator = torch.Generator().manual_seed(0)
    inception.load_state_dict_from_url = lambda url, progress: {}
    network = Untrained("inception-v3-compat", ["2048"])
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.8, 1.2, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3, generator=generator)
    torch.save(network.state_dict(), path)


def make_images(count: int, seed: int) -> np.ndarray:
    """Noise of a brightness of its own for each image, so that an inception score is not 1."""
    random = np.random.RandomState(seed)
    noise = random.randint(0, 256, (count, 32, 32, 3))
    return (noise * random.uniform(0.2, 1.0, (count, 1, 1, 1)) ** (seed + 1)).astype(np.uint8)


def timed(run: Callable[[], dict[str, float]]) -> tuple[float, float, dict[str, float]]:
    """Seconds by the clock and of the processor (of this process alone, without the compiler's), and the scores."""
    start, processor = time.perf_counter(), time.process_time()
    scores = run()
    return time.perf_counter() - start, time.process_time() - processor, scores


def race_end_to_end(count: int, device: torch.device, batch_size: int, compiled: bool) -> None:
    """Both from a weights file and two arrays of images to FID, IS and KID."""
    real, fake = make_images(count, 0), make_images(count, 1)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "inception.pth"
        save_random_inception(weights)

        def ours() -> dict[str, float]:
            extractor = build_extractor(
                "inception", weights=weights, device=device, expected_sha256=file_sha256(weights)
            )
            metrics = ("fid", "is", "kid")
            evaluator = Evaluator(extractor, device, metrics, batch_size, progress=False, compiled=compiled)
            reference = evaluator.reference(real, name="noise", split="train")
            return dict(evaluator.evaluate_images(fake, reference).metrics)

        def theirs() -> dict[str, float]:
            return torch_fidelity.calculate_metrics(
                input1=Images(fake), input2=Images(real), fid=True, isc=True, kid=True, cuda=device.type == "cuda",
                cache=False, verbose=False, save_cpu_ram=True, kid_subset_size=min(1000, count), batch_size=batch_size,
                feature_extractor_weights_path=str(weights),
            )  # fmt: skip

        *their_times, their_scores = timed(theirs)
        keep_freed_memory()  # as every command here does, and torch-fidelity does not
        *our_times, our_scores = timed(ours)
    click.echo(f"FID, IS and KID of {count} against {count} images, {'compiled' if compiled else 'not compiled'}")
    for name, their_seconds, our_seconds in zip(("clock", "processor"), their_times, our_times, strict=True):
        ratio = their_seconds / our_seconds
        click.echo(f"  {name:9} torch-fidelity {their_seconds:8.1f} s, ours {our_seconds:8.1f} s: {ratio:.2f}×")
    for name, their_name in NAMES.items():
        one, other = our_scores[name], their_scores[their_name]
        difference = abs(one - other) / max(abs(other), 1e-12)
        click.echo(f"  {name:22} {one:14.8f} and {other:14.8f}, relative difference {difference:.1e}")


def report_rates(device: torch.device) -> None:
    """What a pass costs, and what the processor gives at most: both in float32."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "inception.pth"
        save_random_inception(weights)
        extractor = build_extractor("inception", weights=weights, device=device, expected_sha256=file_sha256(weights))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        extractor(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=device))
    product, convolution = product_rate(device, precision="float32"), convolution_rate(64, 64, device, "float32")
    click.echo(f"Inception's pass over an image: {counted.get_total_flops() / 1e9:.1f} GFLOP")
    click.echo(f"  a product of 2,048 × 2,048 matrices runs at {product / 1e9:.0f} GFLOP/s at best")
    click.echo(f"  a 3×3 convolution of 64 channels and its backward pass at {convolution / 1e9:.0f}")


def race_distances(dimensions: int, repetitions: int) -> None:
    """Medians of interleaved repetitions; sqrtm once."""
    random = np.random.RandomState(0)
    samples = [random.randn(2 * dimensions, dimensions) * random.uniform(0.5, 2, dimensions) for _ in range(2)]
    means = [torch.from_numpy(sample.mean(axis=0)) for sample in samples]
    covariances = [torch.from_numpy(np.cov(sample, rowvar=False)) for sample in samples]
    first, second = (covariance.numpy() for covariance in covariances)
    offset = float((means[0] - means[1]).square().sum() + first.trace() + second.trace())
    contestants = {
        "ours": lambda: frechet_distance(means[0], covariances[0], means[1], covariances[1]).item(),
        "eigvals": lambda: offset - 2 * np.sqrt(np.linalg.eigvals(first.dot(second)).astype(complex)).real.sum(),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    values = {}
    for _ in range(repetitions):
        for name, run in contestants.items():
            start = time.perf_counter()
            values[name] = run()
            times[name].append(time.perf_counter() - start)
    start = time.perf_counter()
    values["sqrtm"] = offset - 2 * float(np.trace(scipy.linalg.sqrtm(first @ second)).real)
    times["sqrtm"] = [time.perf_counter() - start]
    click.echo(f"Fréchet distance of {dimensions} dimensions")
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, seconds in medians.items():
        error = abs(values[name] - values["ours"]) / values["ours"]
        click.echo(f"  {name:8} {seconds:7.2f} s, {seconds / medians['ours']:5.2f}×, relative difference {error:.1e}")


def measure_memory(count: int, pipe: "multiprocessing.connection.Connection") -> None:
    """Peak memory of FID, IS and KID above what the process holds before them, MiB, and seconds."""
    keep_freed_memory()
    evaluator = Evaluator(Synthetic(), "cpu", ("fid", "is", "kid"), batch_size=64, progress=False)
    real, fake = (np.random.RandomState(seed).randint(0, 256, (count, 4, 4, 3), np.uint8) for seed in (0, 1))
    matrix = torch.eye(64, dtype=torch.float64)  # the libraries load on their first use, and are not the evaluation's
    torch.linalg.eigvalsh(torch.linalg.cholesky(matrix @ matrix))
    matrix.float() @ matrix.float()
    before, start = peak_memory(), time.perf_counter()
    evaluator.evaluate_images(fake, evaluator.reference(real, name="noise", split="train"))
    pipe.send((peak_memory() - before, time.perf_counter() - start))


def peak_memory() -> float:
    """MiB that this process has held at most; `ru_maxrss` would begin with what its parent had held."""
    status = Path("/proc/self/status").read_text()
    return float(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def report_memory(count: int) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=measure_memory, args=(count, sender))
    process.start()
    sender.close()
    mebibytes, seconds = receiver.recv()
    process.join()
    click.echo(f"FID, IS and KID of {count} against {count} features of 2,048: {mebibytes:.0f} MiB, {seconds:.0f} s")


def report_cost(count: int) -> None:
    """Seconds of the processor that metrics take from features, extraction apart."""
    keep_freed_memory()
    real, fake = (np.random.RandomState(seed).randint(0, 256, (count, 4, 4, 3), np.uint8) for seed in (0, 1))
    for metrics in (["fid"], ["fid", "is", "kid", "prc", "dc", "mind"]):
        evaluator = Evaluator(Synthetic(), "cpu", metrics, batch_size=64, progress=False)
        start, processor = time.perf_counter(), time.process_time()
        evaluator.evaluate_images(fake, evaluator.reference(real, name="noise", split="train"))
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        click.echo(f"{','.join(metrics)} of {count} against {count} features of 2,048: ", nl=False)
        click.echo(f"{seconds:.0f} s, {processor:.0f} s of the processor")


@click.command()
@click.option("--count", default=2000, show_default=True, type=click.IntRange(min=20), help="Images of each set.")
@click.option("--rows", default=50_000, show_default=True, type=click.IntRange(min=20), help="Features, for memory.")
@click.option("--cost-rows", default=10_000, show_default=True, type=click.IntRange(min=20), help="Features, for cost.")
@click.option("--dimensions", default=2048, show_default=True, type=click.IntRange(min=2), help="Of the distance.")
@click.option("--repetitions", default=3, show_default=True, type=click.IntRange(min=1), help="Of the distance.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=1), help="Images at a time.")
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True, help="Our extractor.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, ...")
@click.option("--only", type=click.Choice(["end", "rates", "distance", "cost", "memory"]), help="One part.")
def main(
    count: int,
    rows: int,
    cost_rows: int,
    dimensions: int,
    repetitions: int,
    batch_size: int,
    compiled: bool,
    device: str,
    only: str,
) -> None:
    """Measure and print ratios."""
    click.echo(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if only in (None, "end"):
        race_end_to_end(count, resolve_device(device), batch_size, compiled)
    if only in (None, "rates"):
        report_rates(resolve_device(device))
    if only in (None, "distance"):
        race_distances(dimensions, repetitions)
    if only in (None, "cost"):
        report_cost(cost_rows)
    if only in (None, "memory"):
        report_memory(rows)


if __name__ == "__main__":
    main()
