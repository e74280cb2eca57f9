"""Put reports of the committed results into docs/study.md and a summary into README.md: `python docs/write_study.py`.

Between `<!-- report: NAME -->` and `<!-- end -->` stands what `compare.py configs/experiments/NAME.yaml --report-only`
says, without its title and pictures; tests/test_pages.py checks that both pages still say it.
"""

import json
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan.experiments.compare import compare
from gan.experiments.markdown import difference, table, with_interval

PAGES = ROOT / "docs" / "study.md", ROOT / "README.md"
BLOCK = re.compile(r"(<!-- (report|summary): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADS = {
    "linear": "`linear`",
    "independent_4": "`independent`, 4 stages",
    "cascade_4": "`cascading_rejection`, 4 stages",
    "sliced_cascade_4": "`sliced_cascade`, 4 stages",
    "energy_cascade_4": "`energy_cascade`, 4 stages",
}


@cache
def found(name: str) -> tuple[str, dict[str, Any]]:
    """The report of an experiment from what is in docs/results, as text and as numbers."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        text = compare(ROOT / "configs" / "experiments" / f"{name}.yaml", (), 1, ["cpu"], out, True)
        numbers = json.loads((out / "report.json").read_text(encoding="utf-8"))
    body = text.rpartition("\nreport: ")[0].split("\n", 1)[1]
    return "\n".join(line for line in body.splitlines() if not line.startswith("![")).strip(), numbers


def summary(numbers: dict[str, Any]) -> str:
    """Some heads' divergence of modes, and its difference from the linear head's and the cascade's."""
    columns = ["head", "seeds", "divergence", "modes", "difference from `linear`", "difference from `cascade_4`"]
    rows = []
    for arm, title in HEADS.items():
        measures = [run["measures"] for run in numbers["arms"][arm]]
        modes = sum(one["modes"] for one in measures) / len(measures)
        differences = [_difference(numbers["pairs"].get(f"{arm} − {base}")) for base in ("linear", "cascade_4")]
        rows.append(
            [
                title,
                str(len(measures)),
                with_interval([one["kl_modes"] for one in measures]),
                f"{modes:.0f}",
                *differences,
            ]
        )
    return "\n".join(table(columns, rows))


def _difference(pair: dict[str, Any] | None) -> str:
    if pair is None:
        return ""
    bounds = (pair["t"][name] for name in ("mean", "low", "high"))
    return f"{' '.join(difference(*bounds))}, p {pair['holm_p']:.2g}"


def written(text: str) -> str:
    """`text` with every block made anew."""

    def block(match: re.Match[str]) -> str:
        report, numbers = found(match[3])
        return f"{match[1]}{report if match[2] == 'report' else summary(numbers)}\n{match[4]}"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
