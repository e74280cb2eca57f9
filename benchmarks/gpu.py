"""All that is open about a GPU, by one command: `python benchmarks/gpu.py [--minutes 30] [--data FOLDER]`.

Needs no network. Findings are appended to `findings.jsonl` below `--out` as they come, each line with the card, its
driver and all versions. Every part is a process of its own with a time limit; one that fails leaves the line of its
error, and the next one runs. Given again, the command goes on with what it has not found out yet on this card.
`--device cpu --tiny` plays every part on a CPU. docs/gpu.md says what for.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.card import pieces, smoke, speed
from benchmarks.card.campaign import campaign
from benchmarks.card.findings import BROKEN, Findings
from gan.allocator import keep_freed_memory
from gan.device import resolve_device


class Part(NamedTuple):
    """What finds something out, and the most seconds that it may take on a GPU."""

    play: Callable[[Findings, bool], None]
    limit: int


PARTS = {
    "rates": Part(speed.rates, 60),
    "smoke": Part(partial(smoke.smoke, way="eager"), 180),
    "smoke graphs": Part(partial(smoke.smoke, way="graphs"), 180),
    "speed sngan": Part(partial(speed.speed, model="sngan"), 300),
    "seeds": Part(pieces.seeds, 120),
    "speed biggan": Part(partial(speed.speed, model="biggan"), 240),
    "speed r3gan": Part(partial(speed.speed, model="r3gan"), 240),
    "head": Part(pieces.head, 60),
    "evaluator": Part(pieces.evaluator, 90),
    "loader": Part(pieces.loader, 60),
    "smoke compiled": Part(partial(smoke.smoke, way="compiled"), 300),
}
LEAST = 20  # seconds that a part is begun for


def run_part(name: str, limit: float, findings: Findings, tiny: bool) -> None:
    """A process for the part, and another where a case has broken it; what ended it is a finding."""
    start = time.time()
    command = [sys.executable, str(Path(__file__)), "--part", name, "--device", str(findings.device)]
    command += ["--out", str(findings.path.parent), "--since", str(start), *(["--tiny"] if tiny else [])]
    status, error = BROKEN, None
    while status == BROKEN:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            _, said = process.communicate(timeout=max(0.0, start + limit - time.time()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has begun
            process.communicate()
            error = f"stopped after {limit:.0f} s"
            break
        status = process.returncode
        error = (said.strip().splitlines() or [f"status {status}"])[-1][:300] if status else None
    ended = {} if error is None else {"error": error}
    findings.write("parts", name, seconds=round(time.time() - start, 1), **ended)


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--minutes", default=30.0, show_default=True, help="Of all parts; the campaign has what is left.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "outputs" / "gpu", help="[default: outputs/gpu]")
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Holds cifar10_train.npz.")
@click.option("--tiny", is_flag=True, help="Every part as small as it can be, for a CPU.")
@click.option("--since", type=float, default=math.inf, hidden=True, help="When the part was begun.")
@click.option("--part", type=click.Choice([*PARTS, "one seed", "campaign"]), help="One part alone, without a limit.")
def main(device: str, minutes: float, out: Path, data: Path | None, tiny: bool, since: float, part: str | None) -> None:
    """Find out what is open about this card."""
    until = time.time() + 60 * minutes
    keep_freed_memory()
    findings = Findings(out.resolve() / "findings.jsonl", resolve_device(device), since)
    if part == "one seed":
        pieces.one_seed(findings, tiny)
    elif part in PARTS:
        PARTS[part].play(findings, tiny)
        if findings.failed:
            raise SystemExit(f"{findings.failed} cases failed")
    else:
        for name, (_, limit) in PARTS.items() if part is None else ():
            if findings.settled("parts", name):
                continue
            left = min(float(limit), until - time.time())
            if left < LEAST:
                break
            run_part(name, left, findings, tiny)
        if until - time.time() > LEAST:
            campaign(findings, tiny, data, until)
    if part is None:
        click.echo(f"findings in {findings.path}")


if __name__ == "__main__":
    main()
