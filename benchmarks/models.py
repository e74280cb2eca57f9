"""What an iteration of every named model costs: `python benchmarks/models.py [--device cuda] [--batch 16]`.

An iteration is one discriminator step and one generator step of the config, with its regularisers (lazy ones at their
interval), losses and heads; medians, the models in turn. On CUDA, peak memory as well. With `--profile`, instead,
where one iteration's time goes: every operator of 1 % and more.
"""

import statistics
import sys
from pathlib import Path

import click
import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.throughput import machine, timed
from gan.allocator import keep_freed_memory
from gan.build import ImageFacts, build_game
from gan.config import Config, load_config
from gan.device import resolve_device
from gan.training.steps import Game, discriminator_step, generator_step

NAMES = ("sngan", "sngan_cr", "sagan", "sagan_cr", "biggan", "biggan_cr", "r3gan", "r3gan_cr")
CLASSES = 10


class Play:
    """A game on random images."""

    def __init__(self, config: Config, batch: int, device: torch.device) -> None:
        side, latent_dim = config.data.resolution, config.generator.latent_dim
        self.game: Game = build_game(config, ImageFacts(side, 3, CLASSES if config.conditional else None), device)
        layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
        self.images = torch.rand(batch, 3, side, side, device=device).mul(2).sub(1).contiguous(memory_format=layout)
        self.latents = torch.randn(batch, latent_dim, device=device)
        self.labels = torch.arange(batch, device=device) % CLASSES if config.conditional else None

    def discriminator(self) -> None:
        discriminator_step(self.game, self.images, self.labels, self.latents, self.labels)

    def generator(self) -> None:
        generator_step(self.game, self.latents, self.labels, self.images, self.labels)


def shares(play: Play, device: torch.device) -> list[tuple[str, float]]:
    """Operators and their share of an iteration, without what they call, the largest first."""
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=kinds) as profiler:
        play.discriminator()
        play.generator()
    field = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    times = {event.key: float(getattr(event, field)) for event in profiler.key_averages()}
    whole = sum(times.values())
    return sorted(((name, time / whole) for name, time in times.items()), key=lambda pair: -pair[1])


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--steps", default=3, show_default=True, help="Of each, after one to warm up.")
@click.option("--model", "names", multiple=True, type=click.Choice(NAMES), default=NAMES, help="[default: all]")
@click.option("--profile", "profiling", is_flag=True, help="Show operators instead of times.")
def main(device: str, batch: int, steps: int, names: tuple[str, ...], profiling: bool) -> None:
    """Time the steps of the CIFAR-10 configs."""
    keep_freed_memory()
    place = resolve_device(device)
    configs = {
        name: load_config(ROOT / "configs" / "cifar10" / f"{name}.yaml", [f"training.batch_size={batch}"])
        for name in names
    }
    plays = {name: Play(config, batch, place) for name, config in configs.items()}
    if profiling:
        for name, play in plays.items():
            shares(play, place)  # to warm up
            shown = [f"{key} {share:.1%}" for key, share in shares(play, place) if share >= 0.01]
            click.echo(f"{name}: {', '.join(shown)}")
        return
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for step in range(1 + steps):
        for name, play in plays.items():
            found = timed(play.discriminator, place), timed(play.generator, place)
            if step:
                for times, value in zip(seconds[name], found, strict=True):
                    times.append(value)
    click.echo(f"{machine(place)}; torch {torch.__version__}; batch {batch}")
    click.echo("| model | discriminator step, s | generator step, s |\n|---|---|---|")
    for name, (discriminator, generator) in seconds.items():
        click.echo(f"| `{name}` | {statistics.median(discriminator):.3f} | {statistics.median(generator):.3f} |")
    if place.type == "cuda":
        click.echo(f"peak memory, all models held: {torch.cuda.max_memory_allocated(place) / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
