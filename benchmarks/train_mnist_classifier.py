"""Train the referee of MNIST's digits, `mnist_digits-….safetensors`: some ten minutes on one thread.

    OMP_NUM_THREADS=1 python benchmarks/train_mnist_classifier.py mnist_train.npz mnist_test.npz OUT.safetensors

Training digits are turned, scaled and moved a little, and half of them made pale on a grey ground. No choice is made
by the test digits: they are read once, at the end, and the accuracy on them is printed with the weights' hash.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from gan.metrics.audits.digits import predict, save_network
from gan.metrics.extractors.mnist_digits import MnistNetwork

SEED, EPOCHS, BATCH, RATE = 0, 10, 128, 3e-3


def load(path: str) -> tuple[Tensor, Tensor]:
    """Digits float32 `(N, 1, 28, 28)` in [0, 1] and labels int64 `(N,)`."""
    with np.load(path, allow_pickle=False) as archive:
        return torch.from_numpy(archive["images"]).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(
            archive["labels"]
        )


def moved(digits: Tensor, random: torch.Generator) -> Tensor:
    """Digits turned by up to 12 degrees, scaled by up to a tenth and moved by up to 2 pixels."""
    angle, scale, *shift = (torch.rand(4, len(digits), generator=random) * 2 - 1).unbind()
    angle, scale = angle * math.radians(12), 1 + scale * 0.1
    across, along = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([across, -along, shift[0] / 7], 1), torch.stack([along, across, shift[1] / 7], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(digits.shape), align_corners=False)
    return F.grid_sample(digits, grid, align_corners=False)


def washed_out(digits: Tensor, random: torch.Generator) -> Tensor:
    """Half of the digits as they are, half pale on a grey ground with noise, as generators begin: to be read alike.

    x → g + c·x + N(0, s²), with ground g up to 0.6, contrast c from 0.2 to 1 − g, and s up to 0.15, cut to [0, 1].
    """
    chosen, ground, contrast, deviation = torch.rand(4, len(digits), 1, 1, 1, generator=random).unbind()
    ground, deviation = 0.6 * ground, 0.15 * deviation
    pale = ground + (0.2 + contrast * (0.8 - ground)) * digits
    pale = pale + deviation * torch.randn(digits.shape, generator=random)
    return torch.where(chosen < 0.5, pale.clamp(0, 1), digits)


def train(digits: Tensor, labels: Tensor) -> MnistNetwork:
    """The network after its last epoch."""
    torch.manual_seed(SEED)
    random = torch.Generator().manual_seed(SEED)
    network = MnistNetwork().train()
    steps = EPOCHS * (len(digits) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(digits), generator=random).split(BATCH)[: len(digits) // BATCH]:
            seen = washed_out(moved(digits[chosen], random), random)
            loss = F.cross_entropy(network(seen), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / (len(digits) // BATCH):.4f}", flush=True)
    return network.eval()


def main() -> None:
    train_path, test_path, out = sys.argv[1:]
    torch.set_num_threads(1)
    network = train(*load(train_path))
    digits, labels = load(test_path)
    accuracy = (predict(network, digits) == labels).float().mean()
    digest = save_network(network, Path(out))
    print(f"accuracy {accuracy:.4f} on {len(labels)} test digits, sha256 {digest}")


if __name__ == "__main__":
    main()
