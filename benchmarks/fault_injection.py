"""Let every call of the operating system fail once, and start again: whether all ends as if nothing had happened.

`python benchmarks/fault_injection.py`, or with `--quick` one error a site. A training run, an evaluation, samples, an
export and a comparison are each run undisturbed, which finds the places in gan/ from which files below the run are
opened, written, synced, renamed and removed and folders made. Then, for each place and each of four errors, a forked
process runs the command with one such call failing, the first or the last of its place, and another runs it again
without. Survived is a case in which the first ended with one line and status 4 (or 2, where a file could not be opened
or removed), or with 0 where the call is harmless; the second with status 0, or 2 where all was there already; the
result is the undisturbed one to the bit, and no temporary file is left. Exits with 1 if a case was lost.
`--record FILE` keeps what was found, and an interrupted call goes on from it.
"""

import errno
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fault_tasks import TASKS, Task, in_a_process, prepared, start, undisturbed
from benchmarks.faults import Faults

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EINTR)


def judge(task: Task, folder: Path, faults: Faults, whole: Any) -> str:
    """Run a case; returns what was lost, "" for nothing, or "-" where the call was not come to."""
    call = str(faults.site).split()[0]
    first, said = in_a_process(lambda: start(task, folder, faults), folder.with_suffix(".said"))
    counts = folder.with_suffix(".counts")
    if not counts.exists() or json.loads(counts.read_text()).get(faults.site, 0) < faults.number:
        return f"status {first}: {said.strip().splitlines()[-1:]}" if first else "-"
    lines = [line for line in said.replace("\r", "\n").splitlines() if re.match(r"command[a-z ]*: ", line)]
    accepted = (0, 2, 4) if call in ("open", "unlink") else (0, 4)
    if first not in accepted or "Traceback" in said or len(lines) != bool(first):
        return f"status {first}: {said.strip().splitlines()[-1:]}"
    second, again = in_a_process(lambda: start(task, folder, None), folder.with_suffix(".again"))
    if second and not (second == 2 and " is there " in again):  # only its last sync had failed, or nothing
        return f"the next start: status {second}: {again.strip().splitlines()[-1:]}"
    if left := list(folder.rglob("*.tmp")):
        return f"left behind: {left[0].name}"
    return "" if task.result(folder) == whole else f"another result after status {first}"


@click.command()
@click.option("--quick", is_flag=True, help="One error a site, in turn, instead of all four.")
@click.option("--task", "names", type=click.Choice(list(TASKS)), multiple=True, default=list(TASKS))
@click.option("--record", type=click.Path(path_type=Path), help="Keep each case's end here, and go on from it.")
def main(quick: bool, names: tuple[str, ...], record: Path | None) -> None:
    """Fail, start again, compare."""
    torch.set_num_threads(1)
    known = dict(map(json.loads, record.read_text().splitlines())) if record and record.exists() else {}
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory).resolve()
        os.environ["MPLCONFIGDIR"] = str(place / "matplotlib")
        bases: dict[str, Path | None] = {"": None}
        for name in names:
            total += _all_of(name, place, _base(TASKS[name].base, bases, place), quick, known, record)
    click.echo(f"in all: {total['survived']} survived, {total['lost']} lost, {total['not reached']} not reached")
    raise SystemExit(1 if total["lost"] or not total["survived"] else 0)


def _base(name: str, bases: dict[str, Path | None], place: Path) -> Path | None:
    """What a task starts from, made once: a trained run, or a comparison of which one run is missing."""
    if name not in bases:
        folder = bases[name] = prepared(place / f"base {name}", None)
        undisturbed(TASKS[name], folder)
        for last in [*folder.glob("compared/**/cascade*1*")]:
            shutil.rmtree(last) if last.is_dir() else last.unlink(missing_ok=True)
    return bases[name]


def _all_of(
    name: str, place: Path, base: Path | None, quick: bool, known: dict[str, str], record: Path | None
) -> "Counter[str]":
    task, began = TASKS[name], time.perf_counter()
    folder = prepared(place / "case", base)
    whole, sites = undisturbed(task, folder)
    counted: dict[int, Counter[str]] = {code: Counter() for code in ERRORS}
    for number, (site, count) in enumerate(sorted(sites.items())):
        for code in ERRORS[number % 4 : number % 4 + 1] if quick else ERRORS:
            which = 1 if code in (errno.ENOSPC, errno.EACCES) else count  # the first call or the last
            case = f"{name}: {errno.errorcode[code]} at call {which} of {site}"
            if case not in known:
                known[case] = judge(task, prepared(folder, base), Faults(folder, site, which, code), whole)
                if record is not None:
                    with record.open("a") as file:
                        file.write(json.dumps([case, known[case]]) + "\n")
            lost = known[case]
            counted[code]["not reached" if lost == "-" else "lost" if lost else "survived"] += 1
            if lost not in ("", "-"):
                click.echo(f"{case}: {lost}")
    for code, counts in counted.items():
        ends = ", ".join(
            f"{counts[end]} {end}" for end in ("survived", "lost", "not reached") if counts[end] or end[0] != "n"
        )
        click.echo(f"{name:12} {errno.errorcode[code]:6} {len(sites):3} call sites: {ends}")
    click.echo(f"{name:12} {time.perf_counter() - began:.0f} s")
    return sum(counted.values(), Counter())


if __name__ == "__main__":
    main()
