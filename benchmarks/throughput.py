"""A training iteration against the textbook's, and what each measure contributes.

`python benchmarks/throughput.py [--model biggan] [--device cuda] [--steps 5] [--batch 64]`. One process; the
contestants take turns; medians. An iteration is five discriminator steps and one generator step, data loading and
moving average included.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.contestants import DISCRIMINATOR_STEPS, Ours, Run, Setting, contestants, synthetic_store
from gan.allocator import keep_freed_memory
from gan.data.loader import Loader
from gan.device import resolve_device, resolve_precision

RESULTS = ROOT / "benchmarks" / "results.jsonl"
WIDTHS = {"sngan": (256, 128), "biggan": (96, 48), "r3gan": (768, 768)}  # of G and D, as the configs count them
WARM_UP = 1


def timed(run: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def race(runs: dict[str, Run], steps: int, device: torch.device) -> dict[str, float]:
    """Median seconds an iteration of each contestant, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(WARM_UP + steps):
        for name, (iterate, context) in runs.items():
            with context():
                seconds = timed(iterate, device)
            if step >= WARM_UP:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def convolution_rate(width: int, batch: int, device: torch.device, precision: str = "auto") -> float:
    """The best FLOP/s of a 3×3 convolution, forward and backward; `auto` is the precision training uses."""
    bfloat16 = resolve_precision(precision, device) == "bfloat16"
    best = 0.0
    for side in (8, 16, 32):
        conv = torch.nn.Conv2d(width, width, 3, padding=1, device=device).to(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if bfloat16 else torch.float32
        conv, maps = conv.to(dtype), torch.randn(batch, width, side, side, device=device, dtype=dtype)
        maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
        gradient = torch.randn_like(maps)

        def run(conv: torch.nn.Module = conv, maps: Tensor = maps, gradient: Tensor = gradient) -> None:
            torch.autograd.grad(conv(maps), [maps, *conv.parameters()], gradient)

        seconds = min(timed(run, device) for _ in range(4))
        best = max(best, 3 * 2 * 9 * width * width * side * side * batch / seconds)
    return best


def product_rate(device: torch.device, size: int = 2048, precision: str = "auto") -> float:
    """The best FLOP/s of a matrix product; `auto` is the precision training uses."""
    dtype = torch.bfloat16 if resolve_precision(precision, device) == "bfloat16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / min(timed(lambda: left @ right, device) for _ in range(8))


class Operations(TorchDispatchMode):
    """Counts by torch's own formulas; its `FlopCounterMode` refuses second derivatives, for it follows modules too."""

    flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def count_flops(ours: Ours) -> float:
    """Multiplications and additions of an iteration, counted as they are done: fused convolutions need fewer."""
    with Operations() as counted:
        ours.iterate()
    return counted.flops


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = next((line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {torch.get_num_threads()} threads"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def commit(*results: Path) -> str:
    """The checkout's commit, with `-dirty` where tracked files have been changed, those that results go to apart."""
    apart = [f":(exclude){path.relative_to(ROOT)}" for path in results]
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *apart)
    return (_git("describe", "--always") or "unknown") + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def record(entry: dict[str, Any], path: Path) -> str:
    """Append `entry`; returns the change of each ratio from the last entry of the same machine and setting."""
    earlier = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    same = [old for old in earlier if all(old[key] == entry[key] for key in ("machine", "model", "batch", "widths"))]
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    if not same:
        return "first entry of this machine"
    last = same[-1]
    changes = [
        f"{name} {last['ratios'][name]:.2f}× → {value:.2f}×"
        for name, value in entry["ratios"].items()
        if name in last["ratios"]
    ]
    return f"since {last['commit']}: " + ", ".join(changes)


def report(setting: Setting, seconds: dict[str, float]) -> None:
    """One line for each contestant."""
    for name, value in seconds.items():
        images = DISCRIMINATOR_STEPS * setting.batch / value
        click.echo(
            f"{setting.model}, batch {setting.batch:4} {name:28} {value:8.3f} s {images:8.0f} real images/s "
            f"{seconds['textbook'] / value:6.2f}× textbook {seconds['ours'] / value:6.2f}× ours"
        )


def report_utilisation(setting: Setting, seconds: float) -> None:
    """Arithmetic against the rates of convolutions and products, the loader's share, and memory."""
    device, batch = setting.device, setting.batch
    ours = Ours(setting, synthetic_store())
    factor = 4 if setting.model == "biggan" else 1
    widths = {factor * setting.generator_width, factor * setting.discriminator_width}
    flops, rate = count_flops(ours), max(convolution_rate(width, batch, device) for width in widths)
    product = product_rate(device)
    click.echo(
        f"{setting.model}, batch {batch:4} ours: {flops / 1e9:.0f} GFLOP an iteration, {flops / seconds / 1e9:.1f} "
        f"GFLOP/s, {100 * flops / seconds / rate:.0f} % of a convolution's {rate / 1e9:.1f}, "
        f"{100 * flops / seconds / product:.0f} % of a product's {product / 1e9:.1f}"
    )
    for name, store in {"32×32": synthetic_store(), "100,000 at 64×64": synthetic_store(100_000, 64)}.items():
        for resident in (True, False):
            loader = Loader(store, batch, device, flip=True, seed=0, resident=resident, channels_last=True)
            for _ in range(3):
                loader.next_batch()
            loading = statistics.median(timed(loader.next_batch, device) for _ in range(20)) * DISCRIMINATOR_STEPS
            place = "held on the device" if resident else "gathered by a thread"
            click.echo(f"loading, {name}, {place}: {100 * loading / seconds:.2f} % of an iteration")
    if device.type == "cuda":
        click.echo(f"peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB")


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--model", type=click.Choice(["biggan", "sngan"]), default="sngan", show_default=True)
@click.option("--steps", default=5, show_default=True, help="Iterations of each contestant.")
@click.option("--batch", "batches", type=int, multiple=True, default=[64], show_default=True)
@click.option("--generator-width", type=int, help="[default: the config's]")
@click.option("--discriminator-width", type=int, help="[default: the config's]")
@click.option("--compile", "compiled", is_flag=True, help="Race the compiled step as well.")
@click.option("--no-ablation", is_flag=True, help="Race only ours and the textbook's.")
@click.option("--record", "recorded", is_flag=True, help=f"Append to {RESULTS.relative_to(ROOT)}.")
def main(
    device: str,
    model: str,
    steps: int,
    batches: tuple[int, ...],
    generator_width: int | None,
    discriminator_width: int | None,
    compiled: bool,
    no_ablation: bool,
    recorded: bool,
) -> None:
    """Race our step against the textbook's."""
    keep_freed_memory()
    place = resolve_device(device)
    widths = generator_width or WIDTHS[model][0], discriminator_width or WIDTHS[model][1]
    click.echo(f"{machine(place)}; torch {torch.__version__}; {resolve_precision('auto', place)}; widths {widths}")
    for batch in batches:
        setting = Setting(model, *widths, batch, place)
        seconds = race(contestants(setting, compiled=compiled, ablate=not no_ablation), steps, place)
        report(setting, seconds)
        report_utilisation(setting, seconds["ours"])
        if recorded:
            ratios = {name: seconds["textbook"] / value for name, value in seconds.items()}
            entry = {"commit": commit(RESULTS), "machine": machine(place), "model": model, "batch": batch}
            click.echo(record({**entry, "widths": list(widths), "ratios": ratios}, RESULTS))


if __name__ == "__main__":
    main()
