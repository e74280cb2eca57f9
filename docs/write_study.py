"""Put reports of the committed results into pages, and a summary into README.md: `python docs/write_study.py`.

Between `<!-- report: NAME -->` and `<!-- end -->` stands what `compare.py configs/experiments/NAME.yaml --report-only`
says, without its title and other pictures than that of the differences, which comes to docs/study_NAME.png.
tests/test_pages.py checks that the pages still say it.
"""

import json
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan.experiments.compare import report as report_on
from gan.experiments.page import ratio, table, with_range

PAGES = ROOT / "docs" / "study.md", ROOT / "docs" / "stacked_mnist.md", ROOT / "README.md"
PICTURE = "differences.png"
BLOCK = re.compile(r"(<!-- (report|summary): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADS = {
    "linear": "`linear`",
    "independent_4": "`independent`, 4 stages",
    "cascade_4": "`cascading_rejection`, 4 stages",
    "sliced_cascade_4": "`sliced_cascade`, 4 stages",
    "energy_cascade_4": "`energy_cascade`, 4 stages",
    "energy_independent_4": "`energy_cascade` without rejection",
}


@cache
def found(name: str) -> tuple[str, dict[str, Any], bytes | None]:
    """The report of an experiment from what is in docs/results, as text, numbers and any picture of differences."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        text = report_on(ROOT / "configs" / "experiments" / f"{name}.yaml", (), out)
        numbers = json.loads((out / "report.json").read_text(encoding="utf-8"))
        picture = (out / PICTURE).read_bytes() if (out / PICTURE).exists() else None
    body = text.rpartition("\nreport: ")[0].split("\n", 1)[1].replace(f"]({PICTURE})", f"](study_{name}.png)")
    kept = [line for line in body.splitlines() if not line.startswith("![") or f"study_{name}" in line]
    return "\n".join(kept).strip(), numbers, picture


def summary(numbers: dict[str, Any]) -> str:
    """Some heads' divergence of modes, and its ratio to the linear head's and the cascade's."""
    columns = ["head", "seeds", "divergence", "modes", "ratio to `linear`", "ratio to `cascade_4`"]
    rows = []
    for arm, title in ((arm, title) for arm, title in HEADS.items() if arm in numbers["arms"]):
        measures = [run["measures"] for run in numbers["arms"][arm]]
        modes = [one["modes"] for one in measures]
        ratios = [_ratio(numbers["pairs"].get(f"{arm} − {base}")) for base in ("linear", "cascade_4")]
        divergence = with_range([one["kl_modes"] for one in measures], geometric=True)
        rows.append([title, str(len(measures)), divergence, with_range(modes), *ratios])
    return "\n".join(table(columns, rows))


def _ratio(pair: dict[str, Any] | None) -> str:
    if pair is None:
        return ""
    times, bounds = ratio(*(pair["contrast"]["interval"][name] for name in ("mean", "low", "high")))
    return f"{times} ({bounds}): {pair['answer']}"


def written(text: str) -> str:
    """`text` with every block made anew."""

    def block(match: re.Match[str]) -> str:
        report, numbers, _ = found(match[3])
        return f"{match[1]}{report if match[2] == 'report' else summary(numbers)}\n{match[4]}"

    return BLOCK.sub(block, text)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; end with status 1 where a page is not as it would be.")
def main(check: bool) -> None:
    """Bring the pages up to date with the outcomes in docs/results/."""
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if check:
            stale += [page] if written(text) != text else []
            continue
        page.write_text(written(text), encoding="utf-8")
        for _, kind, name, _ in BLOCK.findall(text):
            if kind == "report" and (picture := found(name)[2]) is not None:
                (ROOT / "docs" / f"study_{name}.png").write_bytes(picture)
    for page in stale:
        click.echo(f"{page.relative_to(ROOT)}: not what the outcomes say; python docs/write_study.py", err=True)
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
