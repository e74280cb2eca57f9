"""A training iteration of SNGAN-32 against the textbook's, and what each measure contributes.

`python benchmarks/throughput.py [--device cuda] [--steps 5] [--batch 64]`. One process; the contestants take turns;
medians. An iteration is five discriminator steps and one generator step, data loading and moving average included.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.textbook import Textbook
from gan.allocator import keep_freed_memory
from gan.build import build_game, image_facts
from gan.config import load_config
from gan.data.loader import Loader
from gan.data.store import ImageStore
from gan.device import resolve_device, resolve_precision
from gan.models import layers
from gan.training import steps as training_steps
from gan.training.ema import ExponentialMovingAverage
from gan.training.steps import Game, discriminator_step, generator_step

CONFIG = ROOT / "configs" / "cifar10" / "sngan_cr.yaml"
RESULTS = ROOT / "benchmarks" / "results.jsonl"
DISCRIMINATOR_STEPS = 5
WARM_UP = 1


class TextbookImages(Dataset[Tensor]):
    """CIFAR-sized images as a torchvision data set gives them: PIL, flipped, to a tensor, normalised."""

    def __init__(self, images: np.ndarray) -> None:
        from torchvision import transforms

        self.images = images
        self.transform = transforms.Compose(
            [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        result: Tensor = self.transform(Image.fromarray(self.images[index]))
        return result


class Ours:
    """Our iteration, as the trainer plays it."""

    def __init__(self, overrides: list[str], store: ImageStore, batch: int, device: torch.device) -> None:
        config = load_config(CONFIG, overrides)
        self.game: Game = build_game(config, image_facts(config), device)
        self.ema = ExponentialMovingAverage(self.game.generator, config.ema.decay)
        layout = config.training.channels_last
        self.loader = Loader(store, batch, device, flip=True, seed=0, channels_last=layout)
        self.latents = torch.randn(batch, config.generator.latent_dim, device=device)

    def iterate(self) -> None:
        for _ in range(DISCRIMINATOR_STEPS):
            images, _ = self.loader.next_batch()
            discriminator_step(self.game, images, None, self.latents, None)
        generator_step(self.game, self.latents, None, images, None)
        self.ema.update()


@contextmanager
def replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def textbook_upsample(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(F.interpolate(maps, scale_factor=2.0), weight, bias, padding=weight.shape[-1] // 2)


def textbook_pool(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.avg_pool2d(F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2), 2)


@contextmanager
def apart() -> Iterator[None]:
    """Resampling and convolution one after the other."""
    up = replaced(layers, "upsample_convolve", textbook_upsample)
    with up, replaced(layers, "convolve_pool", textbook_pool):
        yield


def two_passes() -> Any:
    """Real and fake images scored one after the other."""

    def step(game: Game, real: Tensor, _: None, latents: Tensor, __: None) -> None:
        with game.autocast():
            with torch.no_grad():
                fake = game.generator(latents, None)
            training_steps.update_spectral_norms(game.discriminator)
            scores = game.discriminator(real), game.discriminator(fake)
        loss = training_steps.weighted_mean(game.loss.discriminator_loss(*scores), game.stage_weights())
        training_steps.minimise(loss, game.discriminator_optimizer)

    return replaced(sys.modules[__name__], "discriminator_step", step)


def all_gradients() -> Any:
    """The generator's step computes gradients of the discriminator's weights as well."""

    def step(game: Game, latents: Tensor, labels: None, _: Tensor, __: None) -> None:
        with game.autocast():
            scores = game.discriminator(game.generator(latents, labels), labels)
        loss = training_steps.weighted_mean(game.loss.generator_loss(scores), game.stage_weights().detach())
        training_steps.minimise(loss, game.generator_optimizer)

    return replaced(sys.modules[__name__], "generator_step", step)


def synthetic_store(count: int = 10_000) -> ImageStore:
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return ImageStore(images, None, (), "synthetic", "benchmark", "train")


def timed(run: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def contestants(
    widths: tuple[int, int], batch: int, device: torch.device, compiled: bool, ablate: bool
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Name → (an iteration, the context it runs in)."""
    store = synthetic_store()
    loader = DataLoader(
        TextbookImages(store.images), batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    textbook, latents = Textbook(*widths, device), torch.randn(batch, 128, device=device)

    def endless() -> Iterator[Tensor]:
        while True:
            yield from loader

    batches = endless()

    def iterate_textbook() -> None:
        textbook.iterate(next(batches).to(device), latents, DISCRIMINATOR_STEPS)

    base = [f"generator.width={widths[0]}", f"discriminator.backbone.width={widths[1]}", "training.precision=auto"]
    runs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {"textbook": (iterate_textbook, nullcontext)}
    ours = Ours(base, store, batch, device)
    runs["ours"] = (ours.iterate, nullcontext)
    if compiled:
        runs["ours, compiled"] = (Ours([*base, "training.compile=true"], store, batch, device).iterate, nullcontext)
    if ablate:
        runs["ours, resampling apart"] = (ours.iterate, apart)
        runs["ours, two passes in D"] = (ours.iterate, two_passes)
        runs["ours, all gradients in G"] = (ours.iterate, all_gradients)
        contiguous = Ours([*base, "training.channels_last=false"], store, batch, device)
        runs["ours, contiguous"] = (contiguous.iterate, nullcontext)
        if resolve_precision("auto", device) == "bfloat16":
            full = Ours([*base, "training.precision=float32"], store, batch, device)
            runs["ours, float32"] = (full.iterate, nullcontext)
    return runs


def race(
    runs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]], steps: int, device: torch.device
) -> dict[str, float]:
    """Median seconds an iteration of each contestant, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(WARM_UP + steps):
        for name, (iterate, context) in runs.items():
            with context():
                seconds = timed(iterate, device)
            if step >= WARM_UP:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def convolution_rate(width: int, batch: int, device: torch.device) -> float:
    """The best FLOP/s of a 3×3 convolution, forward and backward, at the precision training uses."""
    bfloat16 = resolve_precision("auto", device) == "bfloat16"
    best = 0.0
    for side in (8, 16, 32):
        conv = torch.nn.Conv2d(width, width, 3, padding=1, device=device).to(memory_format=torch.channels_last)
        maps = torch.randn(batch, width, side, side, device=device, requires_grad=True)
        maps = maps.contiguous(memory_format=torch.channels_last)
        gradient = torch.randn_like(maps)

        def run(conv: torch.nn.Module = conv, maps: Tensor = maps, gradient: Tensor = gradient) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                output = conv(maps)
            output.backward(gradient.to(output.dtype))

        seconds = min(timed(run, device) for _ in range(4))
        best = max(best, 3 * 2 * 9 * width * width * side * side * batch / seconds)
    return best


def count_flops(game: Game, images: Tensor, latents: Tensor) -> float:
    """Multiplications and additions of an iteration, counted as they are done: fused convolutions need fewer."""
    with FlopCounterMode(display=False) as counter:
        for _ in range(DISCRIMINATOR_STEPS):
            discriminator_step(game, images, None, latents, None)
        generator_step(game, latents, None, images, None)
    return float(counter.get_total_flops())


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = next((line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {torch.get_num_threads()} threads"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def record(entry: dict[str, Any], path: Path) -> str:
    """Append `entry`; returns the change of each ratio from the last entry of the same machine and setting."""
    earlier = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    same = [old for old in earlier if all(old[key] == entry[key] for key in ("machine", "batch", "widths"))]
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    if not same:
        return "first entry of this machine"
    last = same[-1]
    changes = [
        f"{name} {last['ratios'][name]:.2f}× → {value:.2f}×"
        for name, value in entry["ratios"].items()
        if name in last["ratios"]
    ]
    return f"since {last['commit']}: " + ", ".join(changes)


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--steps", default=5, show_default=True, help="Iterations of each contestant.")
@click.option("--batch", "batches", type=int, multiple=True, default=[64], show_default=True)
@click.option("--generator-width", default=256, show_default=True)
@click.option("--discriminator-width", default=128, show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Race the compiled step as well.")
@click.option("--no-ablation", is_flag=True, help="Race only ours and the textbook's.")
@click.option("--record", "recorded", is_flag=True, help=f"Append to {RESULTS.relative_to(ROOT)}.")
def main(
    device: str,
    steps: int,
    batches: tuple[int, ...],
    generator_width: int,
    discriminator_width: int,
    compiled: bool,
    no_ablation: bool,
    recorded: bool,
) -> None:
    """Race our step against the textbook's."""
    keep_freed_memory()
    place = resolve_device(device)
    widths = (generator_width, discriminator_width)
    click.echo(f"{machine(place)}; torch {torch.__version__}; {resolve_precision('auto', place)}; widths {widths}")
    for batch in batches:
        runs = contestants(widths, batch, place, compiled, ablate=not no_ablation)
        seconds = race(runs, steps, place)
        for name, value in seconds.items():
            images = DISCRIMINATOR_STEPS * batch / value
            click.echo(
                f"batch {batch:5} {name:28} {value:8.3f} s {images:8.0f} real images/s "
                f"{seconds['textbook'] / value:6.2f}× textbook {seconds['ours'] / value:6.2f}× ours"
            )
        report_utilisation(widths, batch, place, seconds["ours"])
        if recorded:
            ratios = {name: seconds["textbook"] / value for name, value in seconds.items()}
            entry = {"commit": commit(), "machine": machine(place), "batch": batch, "widths": list(widths)}
            click.echo(record({**entry, "ratios": ratios}, RESULTS))


def report_utilisation(widths: tuple[int, int], batch: int, device: torch.device, seconds: float) -> None:
    """Arithmetic against the convolutions' rate, the loader's share, and memory."""
    overrides = [f"generator.width={widths[0]}", f"discriminator.backbone.width={widths[1]}"]
    ours = Ours(overrides, synthetic_store(), batch, device)
    images, _ = ours.loader.next_batch()
    flops = count_flops(ours.game, images, ours.latents)
    rate = max(convolution_rate(width, batch, device) for width in widths)
    loading = statistics.median(timed(ours.loader.next_batch, device) for _ in range(20)) * DISCRIMINATOR_STEPS
    click.echo(
        f"batch {batch:5} ours: {flops / 1e9:.0f} GFLOP an iteration, {flops / seconds / 1e9:.1f} GFLOP/s, "
        f"{100 * flops / seconds / rate:.0f} % of a convolution's {rate / 1e9:.1f}; "
        f"loading {100 * loading / seconds:.2f} % of the time"
    )
    if device.type == "cuda":
        click.echo(f"batch {batch:5} peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
