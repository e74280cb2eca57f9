"""The cascade's triangular solve against a loop over stages, and the head's share of a training step.

`python benchmarks/head.py [--device cuda]`. Forward and backward, medians of interleaved repetitions, one process.
"""

import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from gan.allocator import keep_freed_memory
from gan.build import build_game, image_facts
from gan.config import LoggingConfig, load_config
from gan.device import resolve_device
from gan.models.heads.cascade import cascade_scores
from gan.training.diagnostics import Observation, diagnose, score_correlations, weight_cosines
from gan.training.steps import Game, discriminator_step, generator_step

UNCONDITIONAL = [*itertools.product((64, 256), (128, 1024), (1, 2, 3, 5, 10)), (512, 1024, 32)]
CONDITIONAL = [
    (64, 128, 3, 10), (64, 128, 3, 1000), (64, 1024, 5, 10), (256, 128, 3, 10), (256, 512, 10, 100),
    (256, 1024, 5, 10), (256, 1024, 5, 1000),
]  # fmt: skip
LOG_EVERY = LoggingConfig().scalars_every
CONFIG = Path(__file__).parents[1] / "configs" / "cifar10" / "sngan_cr.yaml"


def loop(features: Tensor, weights: Tensor) -> Tensor:
    """The method as it is told: score, reject, score what is left; weights `(N, F)` or `(B, N, F)`."""
    scores = []
    for weight in weights.unbind(-2):
        score = (features * weight).sum(-1) if weights.dim() == 3 else features @ weight
        scores.append(score)
        features = features - (score / weight.square().sum(-1)).unsqueeze(-1) * weight
    return torch.stack(scores, dim=1)


def look_up(table: Tensor, labels: Tensor) -> Tensor:
    """Each sample's weights, `(K, N, F)` → `(B, N, F)`, as an embedding layer looks them up."""
    return torch.nn.functional.embedding(labels, table.flatten(1)).unflatten(1, table.shape[1:])


def backward(score: Callable[[], Tensor]) -> Callable[[], None]:
    return lambda: score().square().mean().backward()


def race(contestants: dict[str, Callable[[], None]], device: torch.device, repetitions: int) -> dict[str, float]:
    """Median seconds of each contestant, taken in turn so that a change of the machine's mood meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for repetition in range(repetitions + 3):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repetition >= 3:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def race_heads(device: torch.device, repetitions: int) -> None:
    click.echo(f"{'B':>5} {'F':>5} {'N':>3} {'classes':>8} {'loop µs':>9} {'solve µs':>9} {'ratio':>6}")
    for batch, width, stages in UNCONDITIONAL:
        features = torch.randn(batch, width, device=device, requires_grad=True)
        weights = torch.randn(stages, width, device=device, requires_grad=True)
        contestants = {
            "loop": backward(partial(loop, features, weights)),
            "solve": backward(partial(cascade_scores, features, weights)),
        }
        report(race(contestants, device, repetitions), batch, width, stages, "")
    for batch, width, stages, classes in CONDITIONAL:
        features = torch.randn(batch, width, device=device, requires_grad=True)
        table = torch.randn(classes, stages, width, device=device, requires_grad=True)
        labels = torch.randint(classes, (batch,), device=device)
        contestants = {
            "loop": backward(partial(score_by_class, loop, features, table, labels)),
            "solve": backward(partial(score_by_class, cascade_scores, features, table, labels)),
        }
        report(race(contestants, device, repetitions), batch, width, stages, str(classes))


def score_by_class(score: Callable[..., Tensor], features: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    """Scores by the weights that each label has in `table` `(classes, N, F)`."""
    return score(features, look_up(table, labels))


def report(seconds: dict[str, float], batch: int, width: int, stages: int, classes: str) -> None:
    ratio = seconds["loop"] / seconds["solve"]
    times = f"{1e6 * seconds['loop']:9.0f} {1e6 * seconds['solve']:9.0f}"
    click.echo(f"{batch:5} {width:5} {stages:3} {classes:>8} {times} {ratio:5.1f}×")


def race_steps(device: torch.device, repetitions: int) -> None:
    """An iteration of SNGAN-32 (five discriminator steps, one generator step) with each head."""
    linear = ["discriminator.head.name=linear", "discriminator.head.options={bias: false}"]
    games = {"linear": make_game(linear, device), "cascade, N = 3": make_game([], device)}
    images = torch.rand(64, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last) * 2 - 1
    latents = torch.randn(64, 128, device=device)

    def iterate(game: Game) -> None:
        for _ in range(5):
            discriminator_step(game, images, None, latents, None)
        generator_step(game, latents, None, images, None)

    seconds = race({name: partial(iterate, game) for name, game in games.items()}, device, repetitions)
    for name, value in seconds.items():
        click.echo(f"SNGAN-32 iteration, batch 64, {name}: {value:.4g} s")
    features = torch.randn(128, 128, device=device, requires_grad=True)
    heads = {name: game.discriminator.head for name, game in games.items()}
    passes = race({name: backward(partial(head, features)) for name, head in heads.items()}, device, 200)
    _, seen = discriminator_step(games["cascade, N = 3"], images, None, latents, None)
    diagnosis = race({"diagnosis": lambda: diagnose_all(games["cascade, N = 3"], seen)}, device, 40)["diagnosis"]
    share = diagnosis / (LOG_EVERY * seconds["cascade, N = 3"])
    click.echo(f"diagnostics every {LOG_EVERY} iterations take {100 * share:.4f} % of them ({1e3 * diagnosis:.2f} ms)")
    extra = 6 * (passes["cascade, N = 3"] - passes["linear"])
    click.echo(f"the cascade's own passes add {100 * extra / seconds['linear']:.3f} % to the linear head's iteration")


def diagnose_all(game: Game, seen: Observation) -> None:
    """What the trainer computes of the head when it logs, values read from the device."""
    head = game.discriminator.head
    values = diagnose(head, game.loss, game.stage_weights().detach(), seen)
    torch.cat(list(values.values())).tolist()
    score_correlations(head, seen).tolist()
    cosines = weight_cosines(head)
    assert cosines is not None
    cosines.tolist()


def make_game(overrides: list[str], device: torch.device) -> Game:
    config = load_config(CONFIG, overrides)
    return build_game(config, image_facts(config), device)


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--repetitions", default=40, show_default=True, help="Of each head.")
@click.option("--iterations", default=3, show_default=True, help="Of each training step.")
def main(device: str, repetitions: int, iterations: int) -> None:
    """Race the heads, then the training steps."""
    keep_freed_memory()
    place = resolve_device(device)
    kind = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or platform.machine()
    click.echo(f"{kind}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    race_heads(place, repetitions)
    race_steps(place, iterations)


if __name__ == "__main__":
    main()
