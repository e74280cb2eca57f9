"""Put the reports of the committed results into docs/study.md: `python docs/write_study.py`.

Between `<!-- report: NAME -->` and `<!-- end -->` stands what `compare.py configs/experiments/NAME.yaml --report-only`
says, without its title and pictures; tests/test_pages.py checks that it still does.
"""

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan.experiments.compare import compare

STUDY = ROOT / "docs" / "study.md"
BLOCK = re.compile(r"(<!-- report: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def report(name: str) -> str:
    """The report of an experiment from what is in docs/results."""
    with tempfile.TemporaryDirectory() as out:
        text = compare(ROOT / "configs" / "experiments" / f"{name}.yaml", (), 1, ["cpu"], Path(out), True)
    body = text.rpartition("\nreport: ")[0].split("\n", 1)[1]
    return "\n".join(line for line in body.splitlines() if not line.startswith("![")).strip()


def written(text: str) -> str:
    """`text` with every block made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}{report(found[2])}\n{found[3]}", text)


if __name__ == "__main__":
    STUDY.write_text(written(STUDY.read_text(encoding="utf-8")), encoding="utf-8")
