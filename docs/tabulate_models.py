"""Parameters and arithmetic of every named model, as the tables of docs/models.md: `python docs/tabulate_models.py`."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from gan.build import ImageFacts, build_discriminator, build_generator
from gan.config import load_config

CONFIGS = Path(__file__).parents[1] / "configs"
ROWS = [
    ("SNGAN", "cifar10/sngan", 32, []),
    ("SAGAN", "cifar10/sagan", 32, []),
    ("BigGAN", "cifar10/biggan", 32, []),
    ("in R3GAN's spirit", "cifar10/r3gan", 32, []),
    ("SAGAN", "tiny_imagenet/sagan", 64, []),
    ("BigGAN", "tiny_imagenet/biggan", 64, []),
    ("in R3GAN's spirit", "cifar10/r3gan", 64, ["data.resolution=64"]),
    ("SAGAN", "tiny_imagenet/sagan", 128, ["data.resolution=128"]),
    ("BigGAN", "imagenet_folder/biggan", 128, []),
    ("in R3GAN's spirit", "cifar10/r3gan", 128, ["data.resolution=128"]),
]
CLASSES = {"cifar10": 10, "tiny_imagenet": 200, "imagenet_folder": 1000}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def gflops(network: nn.Module, *inputs: Tensor | None) -> float:
    """Of a forward pass of one image, counted on shapes; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(*inputs)
    return counter.get_total_flops() / 1e9


def row(model: str, name: str, resolution: int, overrides: list[str]) -> str:
    config = load_config(CONFIGS / f"{name}.yaml", overrides)
    classes = CLASSES[name.split("/")[0]] if config.conditional else None
    with torch.device("meta"):
        facts = ImageFacts(resolution, 3, classes)
        generator, discriminator = build_generator(config, facts), build_discriminator(config, facts)
        latents, images = torch.empty(1, config.generator.latent_dim), torch.empty(1, 3, resolution, resolution)
        labels = None if classes is None else torch.zeros(1, dtype=torch.int64)
    cells = [
        f"{resolution}", model, f"`{' '.join([name, *overrides])}`", f"{classes or '–'}",
        f"{config.generator.width} / {config.discriminator.backbone.width}",
        f"{parameters(generator):,}", f"{parameters(discriminator):,}",
        f"{gflops(generator, latents, labels):.2f}", f"{gflops(discriminator, images, labels):.2f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print("| size | model | config | classes | width G / D | parameters G | D | GFLOP an image G | D |")
    print("|---|---|---|---|---|---|---|---|---|")
    for arguments in ROWS:
        print(row(*arguments), flush=True)
