"""R1 by finite differences against the exact penalty: how far off it is, by σ and precision, and what a step costs.

    python benchmarks/penalties.py configs/digits/dcgan_cr.yaml [--set data.path=...] [--steps 300]

The config is played with the exact penalty for some steps, so that the discriminator has slopes of its own. Then, on
one batch of real images: the mean of many draws relative to the exact penalty (its bias, ± a standard error), and how
much one draw of a batch deviates. Steps without a penalty, with the exact one and with finite differences, of reals
and fakes, take turns; processor seconds, so that other load falls on all alike.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.throughput import machine
from gan.allocator import keep_freed_memory
from gan.build import build_game, build_latents, build_loader, image_facts, prepare_images
from gan.config import Config, load_config
from gan.device import make_autocast, resolve_device
from gan.objectives.gradient_penalties import finite_differences, squared_gradients
from gan.objectives.regularizers import StepBatch
from gan.training.steps import Game, discriminator_step, generator_step

SIGMAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
WEIGHT = 1.0
NONE = "objective.regularizers={}"


def penalties(method: str) -> str:
    """R1 and R2 by one method, as an override."""
    term = f"{{weight: {WEIGHT}, options: {{method: {method}}}}}"
    return f"objective.regularizers={{r1: {term}, r2: {term}}}"


class Play:
    """A game on the images of its config."""

    def __init__(self, config: Config, device: torch.device) -> None:
        facts = image_facts(config)
        self.game: Game = build_game(config, facts, device)
        self.batches = build_loader(config, prepare_images(config.data), device)
        self.latents = build_latents(config, facts, device)

    def discriminator(self) -> None:
        self.images, labels = self.batches.next_batch()
        latents, self.fake_labels = self.latents.next("discriminator", len(self.images))
        self.labels = labels if self.fake_labels is not None else None
        discriminator_step(self.game, self.images, self.labels, latents, self.fake_labels)

    def generator(self) -> None:
        latents, labels = self.latents.next("generator", len(self.images))
        generator_step(self.game, latents, labels, self.images, self.labels)


def batch_of(play: Play, precision: str, device: torch.device) -> StepBatch:
    """What R1 sees of the last batch of images when D works in `precision`."""
    game = play.game
    autocast = make_autocast(precision, device)
    with torch.no_grad(), autocast():
        features = game.discriminator.features(play.images)
        scores = game.discriminator.head(features, play.labels)
    return StepBatch(
        discriminator=game.discriminator, generator=game.generator, autocast=autocast, latents=scores,
        real_images=play.images, real_labels=play.labels, real_features=features, real_scores=scores,
        fake_images=play.images, fake_labels=play.labels, fake_features=features, fake_scores=scores,
        stage_weights=game.stage_weights().detach(), step=0, random=torch.Generator(device).manual_seed(0),
        augment=lambda fakes: fakes,
    )  # fmt: skip


def accuracy(play: Play, precision: str, sigma: float, draws: int, device: torch.device) -> str:
    """The bias of finite differences with its standard error, and the deviation of one draw, of the exact penalty."""
    batch = batch_of(play, precision, device)
    exact = squared_gradients(batch, batch.real_images, batch.real_labels).mean().item()
    assert batch.real_features is not None
    with torch.no_grad():
        found = [
            finite_differences(batch, batch.real_images, batch.real_features, batch.real_labels, sigma).mean().item()
            for _ in range(draws)
        ]
    deviation = statistics.stdev(found) / exact
    return f"{statistics.mean(found) / exact - 1:+.1%} ± {deviation / draws**0.5:.1%}, one draw ± {deviation:.0%}"


def race(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median processor seconds of each, in turn, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


@click.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--set", "overrides", multiple=True, help="Override a key of the config.")
@click.option("--steps", default=300, show_default=True, help="Of training before the penalties are compared.")
@click.option("--draws", default=50, show_default=True, help="Of noise for the whole batch.")
@click.option("--rounds", default=5, show_default=True, help="Of timed steps; 0: none.")
@click.option("--device", "device_name", default="auto", show_default=True)
def main(path: Path, overrides: tuple[str, ...], steps: int, draws: int, rounds: int, device_name: str) -> None:
    """Compare penalties on the discriminator of a config."""
    keep_freed_memory()
    device = resolve_device(device_name)
    plain = [*overrides, "training.shared_latents=false"]
    exact = Play(load_config(path, [*plain, "training.precision=float32", penalties("exact")]), device)
    for _ in range(steps):
        exact.discriminator()
        exact.generator()
    if steps == 0:
        exact.discriminator()
    print(f"{path}, {steps} steps, batch {len(exact.images)}, {machine(device)}, torch {torch.__version__}")
    for precision in ("float32", "bfloat16"):
        for sigma in SIGMAS:
            print(f"{precision:9} σ {sigma:<6} {accuracy(exact, precision, sigma, draws, device)}")
    if rounds:
        forms = {"no penalty": NONE, "exact": penalties("exact"), "finite differences": penalties("finite_difference")}
        plays = {name: Play(load_config(path, [*plain, form]), device) for name, form in forms.items()}
        seconds = race({name: play.discriminator for name, play in plays.items()}, rounds)
        for name, found in seconds.items():
            print(f"D step, {name:18} {found:8.3f} s of processor time, × {found / seconds['no penalty']:.2f}")


if __name__ == "__main__":
    main()
