"""Does every config take steps on this card: both precisions, as Python has it, as graphs, compiled?"""

import gc
import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch

from benchmarks.card.findings import Findings, Found
from benchmarks.contestants import replaced
from benchmarks.models import Play
from gan.config import Config, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
WAYS = {"eager": [], "graphs": ["training.cuda_graphs=true"], "compiled": ["training.compile=true"]}
PLAYED_WITH_HEADS = CONFIGS / "digits" / "dcgan_cr.yaml"
HEADS = {  # what no config has, and factorisations among it
    "orthogonal": "{name: cascading_rejection, options: {rejection: orthogonal}}",
    "decorrelated": "{name: cascading_rejection, options: {rejection: decorrelated}}",
    "sliced cascade": "{name: sliced_cascade}",
    "energy cascade": "{name: energy_cascade}",
}
STEPS = 5  # the fourth of a kind is captured, the fifth replayed
COMPILED = ("digits", "cifar10")  # the others are these networks at more pixels; each takes a minute


def smoke(findings: Findings, tiny: bool, way: str) -> None:
    """One case for each config and precision."""
    for path in chosen(tiny, way):
        for precision in ("float32", "bfloat16"):
            case = f"{path.parent.name}/{path.stem} {precision} {way}"
            findings.case("smoke", case, partial(take_steps, path, [], precision, way, findings.device, tiny))
            gc.collect()
    for name, head in HEADS.items():
        case = f"{PLAYED_WITH_HEADS.stem}, {name} {way}"
        change = [f"discriminator.head={head}"]
        findings.case("smoke", case, partial(take_steps, PLAYED_WITH_HEADS, change, "auto", way, findings.device, tiny))
        gc.collect()


def chosen(tiny: bool, way: str) -> list[Path]:
    """The configs that are played: all, but for what takes long and shows nothing."""
    paths = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "experiments")
    if tiny:
        names = {"eager": COMPILED, "graphs": ("digits",), "compiled": ("digits",)}[way]
        return [path for path in paths if path.parent.name in names]
    return [path for path in paths if way != "compiled" or path.parent.name in COMPILED]


def take_steps(path: Path, changes: list[str], precision: str, way: str, device: torch.device, tiny: bool) -> Found:
    """Some steps of both players on four images; the weights that they come to must be finite."""
    config = small(path, [*changes, f"training.precision={precision}", *WAYS[way]], tiny)
    torch._dynamo.reset()
    with compiling(tiny):
        play = Play(config, 4, device)
        steps = 2 if way == "compiled" or (tiny and way == "eager") else STEPS
        for _ in range(steps):
            play.discriminator()
            play.generator()
    weights = [parameter.detach() for parameter in play.game.generator.parameters()]
    total = sum(float(weight.double().sum()) for weight in weights)
    if not math.isfinite(total):
        raise FloatingPointError(f"weights are not finite after {steps} steps")
    return {"steps": steps}


def small(path: Path, overrides: list[str], tiny: bool) -> Config:
    """The config, for a CPU with few channels; its regularisers act in every step."""
    config = load_config(path)
    sizes = ["training.shared_latents=false", "training.accumulation=1", "training.batch_size=4", "schedules={}"]
    if tiny:
        width = 32 if config.generator.name == "r3gan" else 8  # groups of 16
        sizes += [f"generator.width={width}", f"discriminator.backbone.width={width}"]
    terms = [f"objective.regularizers.{name}.interval=1" for name in config.objective.regularizers]
    return load_config(path, [*sizes, *terms, *overrides])


def compiling(tiny: bool) -> AbstractContextManager[None]:
    """For a tiny run the compiler stops before it writes kernels: a C++ compiler takes minutes for them."""
    return replaced(torch, "compile", partial(torch.compile, backend="aot_eager")) if tiny else nullcontext()
