"""Cut the power after each sync of a command, lose what was not synced, and start again.

`python benchmarks/power_cut.py`. A training run, an evaluation and an export are run while each `fsync` is watched.
What a disk holds for certain is kept beside: of a file its content at its last sync, nothing before the first, and of a
folder its names at its own last sync. After each sync, and at the end, that is one state to start from (`strict`);
another is the present names with the contents that were synced (`names`), as a file system gives that writes renames
before data. From each state a new process runs the command: it must end with status 0, or find all there, come to the
undisturbed result to the bit, and training must go on from no older a checkpoint than had been saved by then. Exits
with 1 if anything was lost.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fault_tasks import TASKS, Task, in_a_process, prepared, start, undisturbed
from gan.training.checkpoint import Checkpoints, checkpoint_paths

COMMANDS = ("training", "evaluation", "export")


class File:
    """What of a file is on the disk for certain."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content


class Folder:
    """Whose names are on the disk for certain."""

    def __init__(self) -> None:
        self.names: dict[str, File | Folder] = {}


Tree = dict[Path, dict[str, File | Folder]]  # names by folder


class Disk:
    """Watches a folder, in which everything is on the disk at first, and writes states of it to `cuts`."""

    def __init__(self, folder: Path, cuts: Path) -> None:
        self.folder, self.cuts = folder, cuts
        self.known: dict[int, File | Folder] = {}  # of living files, by inode
        self.saved = 0  # the last step whose checkpoint was saved
        self.count = 0
        self.look(first=True)

    def look(self, first: bool = False) -> Tree:
        """The names that are there, by folder; what is gone is forgotten, as its inode may come again."""
        living: dict[int, File | Folder] = {}
        tree: Tree = {}
        for place, folders, files in os.walk(self.folder):
            tree[Path(place)] = {}
            for name in (*folders, *files):
                path = Path(place) / name
                inode = path.stat().st_ino
                made: File | Folder = Folder() if path.is_dir() else File(path.read_bytes() if first else b"")
                living[inode] = tree[Path(place)][name] = self.known.get(inode, made)
        root = self.folder.stat().st_ino
        living[root] = self.known.get(root, Folder())
        self.known = living
        if first:
            for place_path, names in tree.items():
                self._at(place_path).names = dict(names)
        return tree

    def _at(self, path: Path) -> Any:
        return self.known[path.stat().st_ino]

    def synced(self, descriptor: int) -> None:
        """A file or folder was brought to the disk: two states more."""
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if not path.is_relative_to(self.folder):
            return
        tree = self.look()
        if path.is_dir():
            self._at(path).names = dict(tree[path])
        else:
            self._at(path).content = path.read_bytes()
        self.cut()

    def cut(self, done: bool = False) -> None:
        """Write both states."""
        self.count += 1
        tree = self.look()
        for kind in ("strict", "names"):
            place = self.cuts / f"{self.count:03d} {kind}{' done' if done else ''} {self.saved}"
            place.mkdir(parents=True)
            self._write(self._at(self.folder), place, self.folder, tree if kind == "names" else None)

    def _write(self, folder: Folder, place: Path, path: Path, tree: Tree | None) -> None:
        for name, entry in (folder.names if tree is None else tree[path]).items():
            if isinstance(entry, File):
                (place / name).write_bytes(entry.content)
            else:
                (place / name).mkdir()
                self._write(entry, place / name, path / name, tree)


def watched(task: Task, folder: Path, cuts: Path) -> int:
    """Run the command in this process while a `Disk` looks on; returns its status."""
    disk = Disk(folder, cuts)
    save, sync = Checkpoints.save, os.fsync

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        disk.synced(descriptor)

    def saving(self: Checkpoints, step: int, state: dict[str, Any]) -> Path:
        path = save(self, step, state)
        disk.saved = step
        return path

    def looked(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = real(*arguments, **options)
            disk.look()
            return result

        return call

    with ExitStack() as patches:
        patches.enter_context(patch.object(os, "fsync", fsync))
        patches.enter_context(patch.object(Checkpoints, "save", saving))
        for name in ("rename", "replace", "unlink", "rmdir"):
            patches.enter_context(patch.object(os, name, looked(getattr(os, name))))
        status = start(task, folder, None)
    disk.cut(done=True)
    return status


def judge(task: Task, folder: Path, state: Path, whole: Any) -> str:
    """Start again from a state; returns what was lost, or nothing."""
    saved = int(state.name.split()[-1])
    newest = [int(path.stem.removeprefix("step_")) for path in checkpoint_paths(state / "run" / "checkpoints")]
    if saved and max(newest, default=0) < saved:
        return f"step {saved} was saved, {max(newest, default=0)} is there"
    if " done " in state.name and task.result(prepared(folder, state)) != whole:
        return "it had ended, and not all is there"
    prepared(folder, state)
    status, said = in_a_process(lambda: start(task, folder, None), folder.with_suffix(".said"))
    if status and not (status == 2 and " is there " in said):
        return f"status {status}: {said.strip().splitlines()[-1:]}"
    if left := list(folder.rglob("*.tmp")):
        return f"left behind: {left[0].name}"
    return "" if task.result(folder) == whole else "another result"


def cut_everywhere(name: str, place: Path, base: Path | None) -> tuple[int, int]:
    """All states of one command; returns how many were survived and how many lost."""
    task, folder, began = TASKS[name], place / "case", time.perf_counter()
    prepared(folder, base)
    whole, _ = undisturbed(task, folder)
    cuts = prepared(place / "cuts", None)
    prepared(folder, base)
    status, said = in_a_process(lambda: watched(task, folder, cuts), folder.with_suffix(".said"))
    if status:
        raise SystemExit(f"{name}, watched: status {status}: {said}")
    lost = 0
    states = sorted(cuts.iterdir())
    for state in states:
        if problem := judge(task, folder, state, whole):
            lost += 1
            click.echo(f"{name}, cut {state.name}: {problem}")
    seconds = time.perf_counter() - began
    click.echo(f"{name:12} {len(states)} states: {len(states) - lost} survived, {lost} lost, {seconds:.0f} s")
    shutil.rmtree(cuts)
    return len(states) - lost, lost


@click.command()
@click.option("--task", "names", type=click.Choice(COMMANDS), multiple=True, default=COMMANDS)
def main(names: tuple[str, ...]) -> None:
    """Cut, start again, compare."""
    torch.set_num_threads(1)
    lost = 0
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory).resolve()
        base = prepared(place / "trained", None)
        undisturbed(TASKS["training"], base)
        for name in names:
            lost += cut_everywhere(name, place, base if TASKS[name].base else None)[1]
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main()
