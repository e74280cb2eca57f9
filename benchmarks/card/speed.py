"""Training steps on this card: images a second, shares of the card's own rates, against the textbook's step."""

import gc
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from benchmarks.card.findings import Findings, Found
from benchmarks.card.smoke import compiling
from benchmarks.contestants import Ours, Setting, synthetic_store, textbook_iteration
from benchmarks.throughput import WIDTHS, convolution_rate, count_flops, product_rate

BATCHES = (64, 256, 1024, 128, 512)  # the most telling first
WAYS: dict[str, list[str]] = {
    "eager": [],
    "graphs": ["training.cuda_graphs=true"],
    "compiled": ["training.compile=true"],
    "compiled, graphs": ["training.compile=true", "training.cuda_graphs=true"],
    "graphs, float32": ["training.cuda_graphs=true", "training.precision=float32"],
}
COMPILED = (64, 256)  # batch sizes; compiling takes a minute each
WARM_UP = 5  # iterations: each player's fourth step is captured


def rates(findings: Findings, tiny: bool) -> None:
    """The best matrix products and convolutions of this card, at the precision training uses."""
    device, batch = findings.device, 4 if tiny else 256
    findings.case("rates", "matrix product", lambda: {"flops": product_rate(device, 256 if tiny else 8192)})
    for channels in (16,) if tiny else (128, 256, 384):
        case = f"convolution, {channels} channels, batch {batch}"
        findings.case("rates", case, partial(_convolution, channels, batch, device))


def _convolution(channels: int, batch: int, device: torch.device) -> Found:
    return {"flops": convolution_rate(channels, batch, device)}


def speed(findings: Findings, tiny: bool, model: str) -> None:
    """Each way of training `model`, at each batch size, and the textbook's where there is one."""
    part = f"speed {model}"
    widths = (32, 32) if tiny and model == "r3gan" else (8, 8) if tiny else WIDTHS[model]
    for batch in (4,) if tiny else BATCHES:
        setting = Setting(model, *widths, batch, findings.device)
        if model != "r3gan":
            find = partial(textbook, setting, tiny)
            findings.case(part, f"textbook, batch {batch}", find)
        flops = cache(partial(operations, setting))
        for way, overrides in WAYS.items():
            if "compiled" in way and (model != "sngan" if tiny else batch not in COMPILED):
                continue
            find = partial(ours, setting, overrides, flops, _best_rates(findings), tiny)
            findings.case(part, f"{way}, batch {batch}", find)
            gc.collect()
    _compare(findings, part)


def textbook(setting: Setting, tiny: bool) -> Found:
    """The textbook's iteration, in PyTorch's default precision."""
    iterate = textbook_iteration(setting, synthetic_store())
    return _timed(iterate, 5, setting, tiny)


def operations(setting: Setting) -> float:
    """Of one iteration, counted as it is played without graphs."""
    return count_flops(Ours(setting, synthetic_store()))


def ours(setting: Setting, overrides: list[str], flops: Callable[[], float], best: Found, tiny: bool) -> Found:
    """Our iteration, in a way."""
    torch._dynamo.reset()
    with compiling(tiny):
        contestant = Ours(setting, synthetic_store(), *overrides)
        found = _timed(contestant.iterate, contestant.discriminator_steps, setting, tiny)
    found["flops"] = flops() / found["seconds"]
    return found | {f"share of {name}": found["flops"] / rate for name, rate in best.items()}


def _timed(iterate: Callable[[], Any], discriminator_steps: int, setting: Setting, tiny: bool) -> Found:
    """Seconds an iteration, over a second at least; memory at its peak."""
    cuda = setting.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
    for _ in range(WARM_UP if not tiny else 1):
        iterate()
    count, seconds = 1, 0.0
    while True:
        _wait(setting.device)
        start = time.perf_counter()
        for _ in range(count):
            iterate()
        _wait(setting.device)
        seconds = time.perf_counter() - start
        if tiny or seconds > 1:
            break
        count = max(2 * count, int(1.5 * count / max(seconds, 1e-3)))
    images = discriminator_steps * setting.batch * count / seconds
    found: Found = {"seconds": seconds / count, "iterations": count, "images_per_second": images}
    if cuda:
        found["peak_gib"] = torch.cuda.max_memory_allocated(setting.device) / 2**30
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best_rates(findings: Findings) -> Found:
    """What `rates` has found: a product's, and the best convolution's."""
    found = [one for one in findings.lines() if one["part"] == "rates" and "flops" in one]
    best: Found = {}
    for one in found:
        name = one["case"].partition(",")[0]
        best[name] = max(best.get(name, 0.0), one["flops"])
    return best


def _compare(findings: Findings, part: str) -> None:
    """Each way's images a second over the textbook's of the same batch: the bar is 5."""
    found = {
        one["case"]: one["images_per_second"] for one in findings.lines() if one["part"] == part and "seconds" in one
    }
    for case, images in found.items():
        way, _, batch = case.rpartition(", ")
        base = found.get(f"textbook, {batch}")
        if base and way != "textbook":
            findings.case(part, f"ratio of {case}", partial(_ratio, images, base))


def _ratio(images: float, base: float) -> Found:
    return {"against the textbook": images / base}
