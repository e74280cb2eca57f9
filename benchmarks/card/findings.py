"""What a run of `benchmarks/gpu.py` finds: one line of JSON each, appended as it comes, never twice."""

import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.throughput import commit, machine

Found = dict[str, Any]
BROKEN = 7  # exit status of a process whose device answers nothing any more


def identity(device: torch.device) -> Found:
    """The card, its driver, and the versions of what computes."""
    found: Found = {"card": machine(device), "torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        driver = Path("/proc/driver/nvidia/version")
        line = driver.read_text().splitlines()[0] if driver.exists() else "unknown"
        found |= {"driver": line, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        found["memory_gib"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
    return found | {"commit": commit()}


class Findings:
    """The lines of a file, those of other cards kept apart.

    Args:
        path: of the file, made where it is not there.
        device: the card that finds.
        since: seconds of the clock; what failed before is tried again, what failed after is not.

    Attributes:
        failed: how many cases have failed here.
    """

    def __init__(self, path: Path, device: torch.device, since: float = math.inf) -> None:
        self.path = path
        self.device = device
        self.since = since
        self.failed = 0
        self.identity = identity(device)

    def lines(self) -> list[Found]:
        """All that this card has found so far; a line that was cut off is none."""
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("card") == self.identity["card"]:
                found.append(entry)
        return found

    def settled(self, part: str, case: str) -> bool:
        """Whether a case has been found out, or has failed just now."""
        known = [one for one in self.lines() if (one["part"], one["case"]) == (part, case)]
        return any("error" not in one or one["time"] >= self.since for one in known)

    def write(self, part: str, case: str, **values: Any) -> None:
        """Append a line, onto the disk before anything else happens."""
        entry = {"part": part, "case": case, **values, "time": time.time(), **self.identity}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        so_far = self.path.read_bytes() if self.path.exists() else b""
        end_of_torn = "\n" if so_far and not so_far.endswith(b"\n") else ""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(end_of_torn + json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(json.dumps({"part": part, "case": case, **values}), flush=True)

    def case(self, part: str, case: str, find: Callable[[], Found]) -> None:
        """Find something out unless that is done; an error is a finding too, of one line.

        Raises:
            SystemExit: with `BROKEN`, after an error that leaves a process nothing to compute with.
        """
        if self.settled(part, case):
            return
        try:
            values = find()
        except Exception as error:
            line = (str(error).splitlines() or [""])[0]
            values = {"error": f"{type(error).__name__}: {line:.300}"}
            self.failed += 1
        self.write(part, case, **values)
        if "CUDA error" in values.get("error", ""):
            raise SystemExit(BROKEN)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
