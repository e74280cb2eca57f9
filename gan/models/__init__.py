"""The players: generators and backbones by name. Heads are in `heads/`, attention in `attention/`."""

from gan.models.biggan import BigGANBackbone, BigGANGenerator
from gan.models.dcgan import DCGANBackbone, DCGANGenerator
from gan.models.interface import Backbone, Generator
from gan.models.r3gan import R3GANBackbone, R3GANGenerator
from gan.models.sngan import SNGANBackbone, SNGANGenerator
from gan.models.unrolled_dcgan import UnrolledDCGANBackbone, UnrolledDCGANGenerator
from gan.models.veegan_dcgan import VEEGANBackbone, VEEGANGenerator

__all__ = ["BACKBONES", "GENERATORS", "Backbone", "Generator"]

GENERATORS: dict[str, type[Generator]] = {
    "dcgan": DCGANGenerator,
    "sngan": SNGANGenerator,
    "biggan": BigGANGenerator,
    "r3gan": R3GANGenerator,
    "unrolled_dcgan": UnrolledDCGANGenerator,
    "veegan_dcgan": VEEGANGenerator,
}

BACKBONES: dict[str, type[Backbone]] = {
    "dcgan": DCGANBackbone,
    "sngan": SNGANBackbone,
    "biggan": BigGANBackbone,
    "r3gan": R3GANBackbone,
    "unrolled_dcgan": UnrolledDCGANBackbone,
    "veegan_dcgan": VEEGANBackbone,
}
