"""What several devices must tell each other in an iteration, and what it costs.

`python benchmarks/communication.py [--ranks 8] [--teraflops 40]`. Bytes are counted; a step takes counted arithmetic
over an assumed rate, a message's follows from an assumed link; all assumptions are printed. At the end two processes on
this host reduce the same buckets over gloo, and that is measured.
"""

import math
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan import distributed
from gan.build import ImageFacts, build_discriminator, build_generator
from gan.commands.estimates import estimate_costs
from gan.config import load_config

CPU = torch.device("cpu")
DISCRIMINATOR_STEPS = 5
PUBLISHED = ["generator.width=64", "discriminator.backbone.width=64"]
# name → config, overrides, classes, images a device and step
MODELS = {
    "SNGAN-32": ("cifar10/sngan_cr", [], None, 64),
    "SNGAN-64": ("tiny_imagenet/sngan_cr", PUBLISHED, None, 64),
    "SAGAN-64": ("tiny_imagenet/sagan_cr", [], 200, 32),
    "BigGAN-64": ("tiny_imagenet/biggan_cr", [], 200, 128),
    "BigGAN-128": ("imagenet_folder/biggan_cr", [], 1000, 256),
}


@dataclass(frozen=True)
class Link:
    """Bytes a second that a device can send while it receives as many, and seconds until a message arrives."""

    bandwidth: float
    latency: float


# what is left of the nominal rate after protocols: 80 %
LINKS = {
    "10 GbE": Link(0.8 * 1.25e9, 50e-6),
    "100 GbE": Link(0.8 * 12.5e9, 20e-6),
    "PCIe 4 ×16": Link(0.8 * 31.5e9, 10e-6),
    "NVLink 3": Link(0.8 * 300e9, 5e-6),
}


@dataclass(frozen=True)
class Volume:
    """Of one iteration: float32 numbers reduced by a step of each player, batch norms, and arithmetic."""

    discriminator: int
    generator: int
    norms: int
    flops: float

    @property
    def bytes(self) -> int:
        """Gradients of all steps of an iteration."""
        return 4 * (DISCRIMINATOR_STEPS * self.discriminator + self.generator)

    @property
    def messages(self) -> int:
        """One a step for gradients; one a batch norm for every forward pass of G and its one backward pass."""
        return DISCRIMINATOR_STEPS + 1 + self.norms * (DISCRIMINATOR_STEPS + 2)


def count(config_name: str, overrides: list[str], classes: int | None, batch: int) -> Volume:
    """Shapes alone: nothing is trained or initialised."""
    steps = f"training.discriminator_steps={DISCRIMINATOR_STEPS}"
    settings = [*overrides, steps, f"training.batch_size={batch}"]
    config = load_config(ROOT / "configs" / f"{config_name}.yaml", settings)
    facts = ImageFacts(config.data.resolution, 3, classes)
    with torch.device("meta"):
        generator, discriminator = build_generator(config, facts), build_discriminator(config, facts)
        flops = estimate_costs(config, facts, generator, discriminator, CPU).flops_per_step
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in generator.modules())
    return Volume(_size(discriminator), _size(generator), norms, flops)


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def communication_seconds(volume: Volume, link: Link, ranks: int) -> float:
    """Ring all-reduce moves 2(R − 1)/R of a bucket over every link; a message waits 2⌈log₂ R⌉ latencies."""
    moved = 2 * (ranks - 1) / ranks * volume.bytes
    return moved / link.bandwidth + volume.messages * 2 * math.ceil(math.log2(ranks)) * link.latency


def table(volumes: dict[str, Volume], ranks: int, rate: float) -> str:
    """Parameters, bytes, and the share of the time that is not spent waiting, for each link."""
    lines = [
        "| model | images a device | D, million | G, million | MB an iteration | messages | arithmetic, s | "
        + " | ".join(LINKS) + " |",
        "|---" * (7 + len(LINKS)) + "|",
    ]  # fmt: skip
    for name, volume in volumes.items():
        seconds = volume.flops / rate
        shares = [seconds / (seconds + communication_seconds(volume, link, ranks)) for link in LINKS.values()]
        cells = [
            name, str(MODELS[name][3]), f"{volume.discriminator / 1e6:.1f}", f"{volume.generator / 1e6:.1f}",
            f"{volume.bytes / 1e6:,.0f}", str(volume.messages), f"{seconds:.3f}", *(f"{s:.0%}" for s in shares),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(volumes: dict[str, Volume], repetitions: int) -> str:
    """Two processes of this file; what the first of them says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    sizes = [str(size) for volume in volumes.values() for size in (volume.discriminator, volume.generator)]
    command = [sys.executable, __file__, "--worker", *sizes, "--repetitions", str(repetitions)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **job, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE)
        for rank in "01"
    ]
    said = [process.communicate(timeout=600)[0].decode() for process in processes]
    return said[0].strip()


def reduce_buckets(sizes: list[int], repetitions: int) -> None:
    """Medians of the time that `distributed.average` takes for a bucket, and of the agreement on whether to stop."""
    torch.set_num_threads(1)
    with distributed.joined(CPU):
        for size in sizes:
            bucket = torch.ones(size)
            seconds = _median(partial(distributed.average, [bucket]), repetitions)
            if distributed.is_main():
                rate = 4 * size / seconds / 1e9
                click.echo(f"{4 * size / 1e6:9.1f} MB  {1e3 * seconds:9.1f} ms  {rate:6.2f} GB/s")
        seconds = _median(lambda: distributed.any_rank(False), 20 * repetitions)
        if distributed.is_main():
            click.echo(f"agreement on whether to stop, once an iteration: {1e6 * seconds:.0f} µs")


def _median(action: Callable[[], object], repetitions: int) -> float:
    action()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@click.command()
@click.option("--ranks", default=8, show_default=True, help="Devices, for the table.")
@click.option("--teraflops", default=40.0, show_default=True, help="Assumed of a device, sustained.")
@click.option("--repetitions", default=5, show_default=True, help="Of each bucket that is measured.")
@click.option("--worker", is_flag=True, hidden=True)
@click.argument("sizes", nargs=-1, type=int)
def main(ranks: int, teraflops: float, repetitions: int, worker: bool, sizes: tuple[int, ...]) -> None:
    """Count, assume, print; then measure two processes."""
    if worker:
        reduce_buckets(list(sizes), repetitions)
        return
    volumes = {name: count(*model) for name, model in MODELS.items()}
    click.echo(
        f"{ranks} devices of {teraflops:g} TFLOP/s sustained (assumed), {DISCRIMINATOR_STEPS} discriminator steps and "
        "one generator step an iteration,\nfloat32 gradients, nothing overlapped, batch norm synchronised. Links "
        "(assumed), GB/s each way and µs a message:"
    )
    for name, link in LINKS.items():
        click.echo(f"  {name}: {link.bandwidth / 1e9:g}, {link.latency * 1e6:g}")
    click.echo(f"\n{table(volumes, ranks, 1e12 * teraflops)}\n\nMeasured: two processes on this host, gloo, one thread")
    click.echo(measure(volumes, repetitions))


if __name__ == "__main__":
    main()
