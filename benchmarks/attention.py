"""Time and memory of every form of attention over n = 64 … 16,384 positions, and the exponents with which they grow.

`python benchmarks/attention.py [--device cuda]`. Forward and backward of the whole block, projections included. Time is
the least of the repetitions: on CUDA of the clock, on the CPU of the processor's, summed over threads, which does not
run while other jobs do. Memory is the most that one pass allocates beyond parameters and maps: on the CPU the
running sum of the profiler's allocations, on CUDA the allocator's peak. A size is left out (–) where four times the
memory of half as many positions, what a quadratic form would need, passes the limit.
"""

import math
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler tells of missing GPUs at every start

import click
import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))

from gan.allocator import keep_freed_memory
from gan.device import resolve_device
from gan.models.attention import ATTENTION, Attention

LINEAR = ("elu", "efficient", "taylor", "mixture of elu and taylor")
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in ATTENTION},
    "dot_product, pooled": ("dot_product", {"pooled": True}),
    "mixture of elu and taylor": ("mixture", {"parts": ["elu", "taylor"], "combine": "outputs"}),
}
POSITIONS = tuple(2**power for power in range(6, 15))
FITTED_FROM = 2048  # below it a call's fixed costs show
MAX_EXPONENT = 1.1
MIN_SECONDS, MIN_REPETITIONS = 0.3, 2
QUICK_SECONDS = 0.1

Row = dict[int, tuple[float, int]]  # positions → seconds, bytes


def make_pass(name: str, channels: int, batch: int, positions: int, device: torch.device) -> Callable[[], None]:
    """One forward and backward pass over maps twice as wide as high, or square."""
    height = 2 ** (int(math.log2(positions)) // 2)
    entry, options = VARIANTS[name]
    attention: Attention = ATTENTION[entry](channels, height, positions // height, **options).to(device)
    maps = torch.randn(batch, channels, height, positions // height, device=device)
    maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
    inputs = [maps, *attention.parameters()]

    def run() -> None:
        torch.autograd.grad(attention(maps).sum(), inputs)

    return run


def least_seconds(run: Callable[[], None], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: list[float] = []
    while len(times) < MIN_REPETITIONS or sum(times) < MIN_SECONDS:
        start = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return min(times)


def peak_bytes(run: Callable[[], None], device: torch.device) -> int:
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def measure(name: str, channels: int, batch: int, device: torch.device, limit: float, largest: int) -> Row:
    row: Row = {}
    for positions in POSITIONS:
        half = row.get(positions // 2)
        too_much = half is not None and name not in LINEAR and 4 * half[1] > limit
        if positions > largest or too_much:
            break
        run = make_pass(name, channels, batch, positions, device)
        run()
        row[positions] = least_seconds(run, device), peak_bytes(run, device)
    return row


def measure_again(name: str, row: Row, channels: int, batch: int, device: torch.device) -> None:
    """Another round for what is quick, so that a slow minute of the machine does not decide."""
    for positions, (seconds, peak) in row.items():
        if seconds < QUICK_SECONDS:
            run = make_pass(name, channels, batch, positions, device)
            run()
            row[positions] = min(seconds, least_seconds(run, device)), peak


def exponent(values: dict[int, float]) -> float:
    """The slope of log value over log positions, by least squares over the sizes from `FITTED_FROM` on."""
    points = [(math.log(n), math.log(value)) for n, value in values.items() if n >= FITTED_FROM]
    if len(points) < 2:
        return math.nan
    mean_x, mean_y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return covariance / sum((x - mean_x) ** 2 for x, _ in points)


def report(title: str, rows: dict[str, dict[int, float]], digits: int) -> dict[str, float]:
    """Print one table; returns the exponents."""
    exponents = {name: exponent(values) for name, values in rows.items()}
    click.echo(f"\n{title:26}" + "".join(f"{n:>10}" for n in POSITIONS) + "  exponent")
    for name, values in rows.items():
        cells = "".join(f"{values[n]:10.{digits}f}" if n in values else f"{'–':>10}" for n in POSITIONS)
        click.echo(f"{name:26}{cells}{exponents[name]:10.2f}")
    return exponents


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--channels", default=64, show_default=True, help="C of the maps.")
@click.option("--batch", default=1, show_default=True)
@click.option("--largest", default=POSITIONS[-1], show_default=True, help="Number of positions.")
@click.option("--rounds", default=4, show_default=True, help=f"For passes of under {QUICK_SECONDS} s; others take one.")
@click.option("--memory-limit", default=4.0, show_default=True, help="GiB that a quadratic form's pass may take.")
def main(device: str, channels: int, batch: int, largest: int, rounds: int, memory_limit: float) -> None:
    """Measure, print, and exit with status 1 where a linear form's time grows faster than linearly."""
    keep_freed_memory()
    torch.manual_seed(0)
    place = resolve_device(device)
    kind = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or platform.machine()
    click.echo(
        f"{kind}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32, C {channels}, B {batch}"
    )
    rows = {name: measure(name, channels, batch, place, memory_limit * 2**30, largest) for name in VARIANTS}
    for _ in range(1, rounds):
        for name, row in rows.items():
            measure_again(name, row, channels, batch, place)
    of_time = report("ms", {name: {n: 1e3 * s for n, (s, _) in row.items()} for name, row in rows.items()}, 2)
    report("MiB", {name: {n: b / 2**20 for n, (_, b) in row.items()} for name, row in rows.items()}, 1)
    above = [
        name for name in LINEAR if not of_time[name] <= MAX_EXPONENT
    ]  # nor is one that too few sizes are there for
    click.echo(f"\nexponents are fitted to n = {FITTED_FROM} and more")
    click.echo(f"linear forms above {MAX_EXPONENT} in time: {', '.join(above) or 'none'}")
    sys.exit(bool(above))


if __name__ == "__main__":
    main()
