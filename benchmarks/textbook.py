"""The training step as textbooks and most repositories have it, for `throughput.py` to measure against.

Contiguous float32, resampling and convolution apart, spectral normalisation by hooks with a power iteration in every
forward pass, real and fake images scored one after the other, a graph through the generator in the discriminator's
step, gradients of the discriminator's weights in the generator's step.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm


class GeneratorBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.norm1(x)), scale_factor=2))
        h = self.conv2(F.relu(self.norm2(h)))
        return h + self.shortcut(F.interpolate(x, scale_factor=2))


class Generator(nn.Module):
    """SNGAN-32 (Miyato et al. 2018, table 4)."""

    def __init__(self, width: int = 256, latent_dim: int = 128) -> None:
        super().__init__()
        self.project = nn.Linear(latent_dim, 16 * width)
        self.blocks = nn.Sequential(*(GeneratorBlock(width) for _ in range(3)))
        self.norm, self.to_image = nn.BatchNorm2d(width), nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.blocks(self.project(z).view(len(z), -1, 4, 4))
        return torch.tanh(self.to_image(F.relu(self.norm(h))))


class DiscriminatorBlock(nn.Module):
    def __init__(self, i: int, o: int, down: bool, first: bool = False) -> None:
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(i, o, 3, 1, 1))
        self.conv2 = spectral_norm(nn.Conv2d(o, o, 3, 1, 1))
        self.shortcut = spectral_norm(nn.Conv2d(i, o, 1)) if down or i != o else nn.Identity()
        self.down, self.first = down, first

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        s = self.shortcut(x)
        return F.avg_pool2d(h, 2) + F.avg_pool2d(s, 2) if self.down else h + s


class Discriminator(nn.Module):
    """SNGAN-32 with a linear head."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            DiscriminatorBlock(3, width, True, first=True),
            DiscriminatorBlock(width, width, True),
            DiscriminatorBlock(width, width, False),
            DiscriminatorBlock(width, width, False),
        )
        self.head = spectral_norm(nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.blocks(x)).sum(dim=(2, 3)))


class Textbook:
    """Both players, their optimisers, and one iteration.

    Args:
        generator, discriminator: of this module, called with latents or images alone; or of `textbook_biggan`, called
            with labels as well.
        device: where they go.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, device: torch.device) -> None:
        self.generator, self.discriminator = generator.to(device), discriminator.to(device)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), 2e-4, (0.0, 0.9))
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), 2e-4, (0.0, 0.9))

    def iterate(self, images: Tensor, latents: Tensor, discriminator_steps: int, *labels: Tensor) -> None:
        for _ in range(discriminator_steps):
            self.discriminator_optimizer.zero_grad()
            fake_images = self.generator(latents, *labels)
            real_scores = self.discriminator(images, *labels)
            fake_scores = self.discriminator(fake_images.detach(), *labels)
            (F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()).backward()
            self.discriminator_optimizer.step()
        self.generator_optimizer.zero_grad()
        (-self.discriminator(self.generator(latents, *labels), *labels).mean()).backward()
        self.generator_optimizer.step()
