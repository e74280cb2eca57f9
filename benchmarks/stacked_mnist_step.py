"""What a step of stacked MNIST's published protocol costs on one thread, and what each measure is worth.

    OMP_NUM_THREADS=1 python benchmarks/stacked_mnist_step.py [ROUNDS]

The variants take turns within every round, and processor seconds are counted, so that other load falls on all alike.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from gan.allocator import keep_freed_memory
from gan.build import ImageFacts, build_game
from gan.config import load_config
from gan.models.blocks import same_padding
from gan.training.steps import discriminator_step, generator_step

CONFIG = ROOT / "configs" / "stacked_mnist" / "unrolled_half.yaml"
PHASED = same_padding.PHASED
APART = "training.shared_latents=false"
VARIANTS = {  # overrides of the config, and up to how many channels transposed convolutions are phased
    "bfloat16, channels last": (["training.precision=bfloat16", APART], 0),
    "float32, channels first": (["training.channels_last=false", APART], 0),
    "float32, channels last": ([APART], 0),
    "and phased convolutions": ([APART], PHASED),
    "and fakes made once": ([], PHASED),
    "these compiled": (["training.compile=true"], PHASED),
}


def player(overrides: list[str], phased: int) -> Callable[[], float]:
    """Plays one step; returns its processor seconds."""
    config = load_config(CONFIG, overrides)
    game = build_game(config, ImageFacts(28, 3, None), torch.device("cpu"))
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    images = (torch.rand(128, 3, 28, 28) * 2 - 1).contiguous(memory_format=layout)

    def play() -> float:
        same_padding.PHASED = phased
        start = time.process_time()
        latents = torch.randn(128, 256)
        discriminator_step(game, images, None, latents, None)
        generator_step(game, latents, None, images, None)
        return time.process_time() - start

    return play


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    torch.set_num_threads(1)
    keep_freed_memory()
    players = {name: player(*variant) for name, variant in VARIANTS.items()}
    for play in players.values():
        for _ in range(3):
            play()
    seconds = [[play() for play in players.values()] for _ in range(rounds)]
    first = list(zip(*seconds, strict=True))[1]
    print(f"torch {torch.__version__}, one thread, {rounds} rounds; milliseconds of processor time a step")
    for name, found in zip(players, zip(*seconds, strict=True), strict=True):
        ratio = statistics.median(one / base for one, base in zip(found, first, strict=True))
        print(
            f"{name:28} median {statistics.median(found) * 1e3:6.1f}   fastest {min(found) * 1e3:6.1f}   × {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
