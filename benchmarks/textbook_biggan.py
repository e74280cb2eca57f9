"""BigGAN-32 with attention, trained as most repositories train it, for `throughput.py` to measure against.

Contiguous float32, resampling and convolution apart, spectral normalisation of both players by hooks with a power
iteration in every forward pass, softmax attention with its whole matrix, real and fake images scored one after the
other, a graph through the generator in the discriminator's step.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

from benchmarks.textbook import DiscriminatorBlock


def conv(i: int, o: int, size: int = 3) -> nn.Module:
    return spectral_norm(nn.Conv2d(i, o, size, 1, size // 2))


class ConditionalBatchNorm(nn.Module):
    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.gain = spectral_norm(nn.Linear(condition, width, bias=False))
        self.bias = spectral_norm(nn.Linear(condition, width, bias=False))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.norm(x) * (1 + self.gain(c))[..., None, None] + self.bias(c)[..., None, None]


class Attention(nn.Module):
    """Zhang et al. 2019 (arXiv:1805.08318), keys and values pooled 2×2 as in BigGAN."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = conv(width, width // 8, 1), conv(width, width // 8, 1)
        self.value, self.out = conv(width, width // 2, 1), conv(width // 2, width, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        query = self.query(x).flatten(2)  # (B, C/8, n)
        key, value = (F.max_pool2d(layer(x), 2).flatten(2) for layer in (self.key, self.value))
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)  # (B, n, n/4)
        return x + self.gamma * self.out((value @ weights.transpose(1, 2)).view(b, -1, h, w))


class GeneratorBlock(nn.Module):
    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ConditionalBatchNorm(width, condition), ConditionalBatchNorm(width, condition)
        self.conv1, self.conv2, self.shortcut = conv(width, width), conv(width, width), conv(width, width, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, c)), scale_factor=2))
        return self.conv2(F.relu(self.norm2(h, c))) + self.shortcut(F.interpolate(x, scale_factor=2))


class Generator(nn.Module):
    """Brock et al. 2019 (arXiv:1809.11096): hierarchical latents, one embedding for all blocks, attention at 16×16."""

    def __init__(self, width: int, latent_dim: int, classes: int, embedding: int = 128) -> None:
        super().__init__()
        chunk = latent_dim // 4
        self.embedding = nn.Embedding(classes, embedding)
        self.project = spectral_norm(nn.Linear(chunk, 16 * width))
        self.blocks = nn.ModuleList(GeneratorBlock(width, chunk + embedding) for _ in range(3))
        self.attention = Attention(width)
        self.norm, self.to_image = nn.BatchNorm2d(width), conv(width, 3)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        first, *chunks = z.chunk(4, dim=1)
        h = self.project(first).view(len(z), -1, 4, 4)
        for block, part in zip(self.blocks, chunks, strict=True):
            h = block(h, torch.cat([self.embedding(y), part], 1))
            h = self.attention(h) if h.shape[-1] == 16 else h
        return torch.tanh(self.to_image(F.relu(self.norm(h))))


class Discriminator(nn.Module):
    """Attention at 16×16 and a projection head (arXiv:1802.05637)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.first = DiscriminatorBlock(3, width, True, first=True)
        self.attention = Attention(width)
        self.blocks = nn.Sequential(*(DiscriminatorBlock(width, width, down) for down in (True, False, False)))
        self.head = spectral_norm(nn.Linear(width, 1))
        self.classes = spectral_norm(nn.Embedding(classes, width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        v = F.relu(self.blocks(self.attention(self.first(x)))).sum(dim=(2, 3))
        return self.head(v) + (self.classes(y) * v).sum(1, keepdim=True)
