"""What a config will cost, before it is run: parameters, arithmetic, memory and time of a step."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from gan.build import (
    ImageFacts,
    build_accumulation,
    build_augmentation,
    build_discriminator,
    build_generator,
    build_loss,
    build_regularizers,
    build_stage_weights,
    build_top_k,
    image_facts,
    require_room,
    state_bytes,
)
from gan.build.game import flips_images
from gan.commands.gamma import gamma_remark
from gan.commands.initial_weights import InitialWeights
from gan.config import Config, EvaluationConfig
from gan.device import resolve_precision
from gan.metrics.table import require_metrics
from gan.models.discriminator import Discriminator


@dataclass(frozen=True)
class Costs:
    """What a run will cost: parameters are counts, memory bytes on each device, time seconds a generator step."""

    generator_parameters: int
    discriminator_parameters: int
    flops_per_step: float
    memory: float
    seconds_per_step: float


def describe(config: Config, device: torch.device, weights: InitialWeights) -> str:
    """The resolved config and what a run of it that begins with `weights` will cost, as text.

    Raises:
        UserError: the run would refuse a name, an option, a size or the weights; that other files can be had is not
            looked at.
    """
    training = config.training.model_copy(update={"init_from": weights.origin})
    config = config.model_copy(update={"training": training})
    facts = image_facts(config)
    require_room(config, facts, device)
    generator, discriminator = build_generator(config, facts), build_discriminator(config, facts)
    weights.load_players(generator, discriminator)
    _check_names(config, discriminator)
    costs = estimate_costs(config, facts, generator, discriminator, device)
    remark = gamma_remark(config, facts.resolution)
    return (
        f"{config.to_yaml()}\n"
        f"generator parameters      {costs.generator_parameters:,}\n"
        f"discriminator parameters  {costs.discriminator_parameters:,}\n"
        f"arithmetic                {costs.flops_per_step / 1e9:,.1f} GFLOP a step\n"
        f"memory                    {costs.memory / 2**20:,.0f} MiB for states and activations\n"
        f"time                      {costs.seconds_per_step:.2g} s a step on {device}, about "
        f"{_duration(costs.seconds_per_step * config.training.steps)} in all, by a convolution's rate"
        + (f"\nγ                         {remark}" if remark else "")
    )


def _duration(seconds: float) -> str:
    """In its two largest units: `3 d 4 h`, `2 h 5 min`, `4 min`."""
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def _check_names(config: Config, discriminator: Discriminator) -> None:
    """Build all else that a run builds, and look up the extractor, whose registry takes seconds to import."""
    require_metrics(config.evaluation.metrics)
    build_regularizers(config, discriminator)
    build_stage_weights(config, discriminator.stages)
    for build in (build_loss, build_top_k, build_augmentation, build_accumulation, flips_images):
        build(config)
    if config.evaluation.extractor != EvaluationConfig().extractor:
        from gan.metrics.extractors.catalogue import require_known

        require_known(config.evaluation.extractor, "evaluation.extractor")


def estimate_costs(
    config: Config, facts: ImageFacts, generator: nn.Module, discriminator: nn.Module, device: torch.device
) -> Costs:
    """Count one step's operations and saved activations on two samples, and time one convolution on `device`."""
    labels = None if facts.num_classes is None else torch.zeros(2, dtype=torch.int64)
    latents = torch.zeros(2, config.generator.latent_dim)
    images = torch.zeros(2 * config.discriminator.packing, facts.channels, facts.resolution, facts.resolution)
    generator_flops, generator_saved = _forward_costs(generator, latents, labels)
    discriminator_flops, discriminator_saved = _forward_costs(discriminator, images, labels)
    batch, ratio = config.training.batch_size, config.training.discriminator_steps
    # A backward pass costs two forward passes, one where the weights' own gradients are not wanted.
    flops = ratio * batch * (generator_flops + 2 * 3 * discriminator_flops)
    flops += batch * (3 * generator_flops + 2 * discriminator_flops)
    precision = resolve_precision(config.training.precision, device)
    width = 0.5 if precision == "bfloat16" else 1.0
    accumulation = build_accumulation(config)
    saved = max(2 * discriminator_saved, generator_saved + discriminator_saved) * width * batch / accumulation.count
    sizes = (_parameters(generator), _parameters(discriminator))
    seconds = flops / _convolution_rate(device, precision) / accumulation.world_size
    return Costs(*sizes, flops, state_bytes(*sizes) + saved, seconds)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _forward_costs(network: nn.Module, inputs: Tensor, labels: Tensor | None) -> tuple[float, float]:
    """Operations and bytes kept for the backward pass, per sample, of a forward pass."""
    from torch.utils.flop_counter import FlopCounterMode  # here, because it loads torch's compiler

    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as operations, saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(inputs, labels)
    del output
    return operations.get_total_flops() / len(inputs), sum(kept.values()) / len(inputs)


def _convolution_rate(device: torch.device, precision: str) -> float:
    """Operations a second of a 3×3 convolution and its backward pass, 64 channels, on `device`."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    layout = torch.channels_last
    weight = torch.ones(64, 64, 3, 3, device=device, dtype=dtype).to(memory_format=layout).requires_grad_()
    maps = torch.ones(32, 64, 16, 16, device=device, dtype=dtype).to(memory_format=layout).requires_grad_()
    seconds = min(_time_once(weight, maps, device) for _ in range(3))
    return 3 * 2 * weight.numel() * 32 * 16 * 16 / seconds


def _time_once(weight: Tensor, maps: Tensor, device: torch.device) -> float:
    start = time.perf_counter()
    torch.autograd.grad(torch.conv2d(maps, weight, padding=1).sum(), (weight, maps))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
