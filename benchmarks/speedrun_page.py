"""The tables of docs/speedrun.md, from its records and the search's outcomes: `python benchmarks/speedrun_page.py`.

`--check` changes nothing and fails where the page is not what they make it.
"""

import json
import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import click
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan.config import parse_yaml
from gan.files import write_text

PAGE, RECORDS = ROOT / "docs" / "speedrun.md", ROOT / "docs" / "speedrun.yaml"
BLOCK = re.compile(r"(<!-- (records|speedrun_search_\d+) -->\n).*?(<!-- end -->)", re.DOTALL)
SEEDS, LEVEL = 5, 0.01  # what a record needs


def verdict(distances: list[float], target: float) -> tuple[float, bool]:
    """p of a mean distance that is no smaller than the target, and whether so many seeds and that p make a record."""
    if len(distances) < 2:
        return 1.0, False
    p = float(stats.ttest_1samp(distances, target, alternative="less").pvalue)
    return p, len(distances) >= SEEDS and p < LEVEL


def mean_of(entry: dict[str, Any], key: str) -> float:
    """The mean of a figure over an entry's runs."""
    return statistics.mean(run[key] for run in entry["runs"])


def iterations(entry: dict[str, Any]) -> float:
    """The mean over an entry's runs of their time, in iterations of the textbook's step on the machine of each."""
    return statistics.mean(run["minutes"] * 60 / run["textbook_seconds"] for run in entry["runs"])


def base_of(records: dict[str, Any]) -> dict[str, Any] | None:
    """The entry of the config that all are compared with, once it has runs."""
    for entry in records["entries"]:
        if entry["config"] == records["base"] and not entry["settings"]:
            return entry
    return None


def table(records: dict[str, Any]) -> str:
    """The page's table: a row an entry, beside the base."""
    rows = ["| date | change | minutes | textbook iterations | factor | FD | FD of levels | seeds | p | record |"]
    rows.append("|---|---|---|---|---|---|---|---|---|---|")
    fastest = math.inf
    for entry in records["entries"]:
        is_record = standing(entry, base_of(records), records["target"], fastest)
        rows.append(row(entry, base_of(records), records["target"], is_record))
        if is_record == "yes":
            fastest = iterations(entry)
    return "\n".join(rows)


def standing(entry: dict[str, Any], base: dict[str, Any] | None, target: float, fastest: float) -> str:
    """Whether an entry is a record, where the fastest before it took so many iterations."""
    _, is_below = verdict([run["distance"] for run in entry["runs"]], target)
    if not is_below or iterations(entry) >= fastest:
        return "no"
    if base is None:
        return "when the base has been raced"
    return "yes" if mean_of(entry, "second") <= mean_of(base, "second") else "no"


def row(entry: dict[str, Any], base: dict[str, Any] | None, target: float, is_record: str) -> str:
    """One entry beside the base."""
    distances = [run["distance"] for run in entry["runs"]]
    p, _ = verdict(distances, target)
    cells = (
        max(run["date"] for run in entry["runs"]), entry["change"], f"{mean_of(entry, 'minutes'):.1f}",
        f"{iterations(entry):.0f}", f"{iterations(base) / iterations(entry):.2f}" if base else "–",
        f"{statistics.mean(distances):.1f} ({min(distances):.1f} to {max(distances):.1f})",
        f"{mean_of(entry, 'second'):.3f}", str(len(distances)), f"{p:.2g}" if len(distances) > 1 else "–", is_record,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def search_table(plan: dict[str, Any], results: Path) -> str:
    """What each setting came to at each rung, the survivors of the last one first."""
    rungs = plan["rungs"]
    found = [_outcomes(results / f"rung_{number}") for number in range(len(rungs))]
    heads = [f"{rung['minutes']} min: FD (steps)" for rung in rungs]
    rows = [f"| setting | {' | '.join(heads)} |", "|---" * (len(rungs) + 1) + "|"]

    def rank(name: str) -> tuple[float, ...]:
        reached = [rung[name]["distance"] for rung in found if name in rung]
        return (-len(reached), *reached[-1:])

    for name in sorted(plan["settings"], key=rank):
        cells = [f"{rung[name]['distance']:.1f} ({rung[name]['steps']:,})" if name in rung else "" for rung in found]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def _outcomes(folder: Path) -> dict[str, Any]:
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")}


def page(text: str) -> str:
    """The page with its tables as they have to be."""
    return BLOCK.sub(lambda block: f"{block[1]}{_content(block[2])}\n{block[3]}", text)


def _content(name: str) -> str:
    if name == "records":
        return table(parse_yaml(RECORDS.read_text(encoding="utf-8"), str(RECORDS)))
    file = ROOT / "benchmarks" / f"{name}.yaml"
    plan = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    return search_table(plan, file.parent / plan["results"])


@click.command()
@click.option("--check", is_flag=True, help="Only say whether the page is up to date.")
def main(check: bool) -> None:
    """Write the tables of docs/speedrun.md."""
    before = PAGE.read_text(encoding="utf-8")
    after = page(before)
    if check and after != before:
        raise click.ClickException(f"{PAGE.relative_to(ROOT)} is out of date: python benchmarks/speedrun_page.py")
    write_text(PAGE, after)


if __name__ == "__main__":
    main()
