"""What a generator and a backbone are, as `heads/interface.py` says it of a head."""

from torch import nn


class Network(nn.Module):
    """What generators and backbones both state of themselves: the sizes of images and of maps that they are made for.

    Their constructors take these as keywords, and all others are options, checked against the signature:

        resolution   side of the images, one of `resolutions`
        channels     of the images
        width        a factor of the channels of all layers
        attention    an `AttentionPlacement` or None; only where `attention_resolutions` names a side
    """

    resolutions: tuple[int, ...]

    @staticmethod
    def attention_resolutions(resolution: int) -> list[int]:
        """Sides of the maps that attention can follow, block by block; none for a network that takes no attention."""
        return []


class Generator(Network):
    """Latents `(B, latent_dim)` and labels `(B,)` or None → images `(B, channels, resolution, resolution)` in [−1, 1].

    The constructor also takes `latent_dim`, and `num_classes`, which is None where there are no labels.
    """

    latent_dim: int
    num_classes: int | None


class Backbone(Network):
    """Images `(B, channels, resolution, resolution)` → features `(B, out_features)`."""

    out_features: int
