"""Put what the committed results say into pages, and a summary into README.md: `python docs/write_study.py`.

Between `<!-- report: NAME -->` and `<!-- end -->` stands what `compare.py configs/experiments/NAME.yaml --report-only`
says, without its title and other pictures than that of the differences, which comes to docs/study_NAME.png; between
`<!-- verdicts: NAME -->` and the end its verdicts alone, and the whole is a page of its own, docs/reports/NAME.md.
`summary` is a table of its heads, `published` one of modes and KL as papers give them. A page that shows
study_NAME_curves.png has it drawn. All verdicts of docs/study.md are one picture, docs/study_summary.png.
tests/test_pages.py checks that the pages still say it.
"""

import json
import math
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
from matplotlib.figure import Figure
from matplotlib.patches import Patch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan.experiments.compare import report as report_on
from gan.experiments.figures import COLOURS
from gan.experiments.page import ratio, table, with_range
from gan.experiments.tables import probability

PAGES = ROOT / "docs" / "study.md", ROOT / "docs" / "stacked_mnist.md", ROOT / "README.md"
PICTURES = {"differences.png": "", "curves.png": "_curves"}
REPORTS = ROOT / "docs" / "reports"
SUMMARY = ROOT / "docs" / "study_summary.png"
BLOCK = re.compile(r"(<!-- (report|summary|verdicts|published): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADS = {
    "linear": "`linear`",
    "linear_gain_2": "`linear`, its score times 2",
    "linear_gain_4": "`linear`, its score times 4",
    "independent_4": "`independent`, 4 stages",
    "cascade_4": "`cascading_rejection`, 4 stages",
    "decorrelated_average_4": "the decorrelated cascade, by averaged moments alone",
    "decorrelated_4": "decorrelated cascade, 4 stages",
    "sliced_cascade_4": "`sliced_cascade`, 4 stages",
    "sliced_independent_4": "`sliced_cascade` without rejection",
    "energy_cascade_4": "`energy_cascade`, 4 stages",
    "energy_independent_4": "`energy_cascade` without rejection",
    "moments": "no adversary: means and variances of `linear`'s features matched",
    "packed_2": "`linear` on packs of two, PacGAN's",
}
MODES = {"kl_modes": "modes", "mode_divergence": "mode_count"}
# By PacGAN's authors at D = ½ (docs/stacked_mnist.md): modes and KL, with standard errors over 50 trials.
PUBLISHED = {"linear": ("487.7 ± 34.6", "2.24 ± 0.15"), "packed_2": ("840.7 ± 15.9", "1.00 ± 0.05")}


@cache
def found(name: str) -> tuple[str, dict[str, Any], dict[str, bytes]]:
    """The report of an experiment from what is in docs/results: text, numbers, and pictures by their names in docs."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        text = report_on(ROOT / "configs" / "experiments" / f"{name}.yaml", (), out)
        numbers = json.loads((out / "report.json").read_text(encoding="utf-8"))
        drawn = [file for file in PICTURES if (out / file).exists()]
        pictures = {f"study_{name}{PICTURES[file]}.png": (out / file).read_bytes() for file in drawn}
    body = text.rpartition("\nreport: ")[0].split("\n", 1)[1].replace("](differences.png)", f"](study_{name}.png)")
    kept = [line for line in body.splitlines() if not line.startswith("![") or f"study_{name}" in line]
    return "\n".join(kept).strip(), numbers, pictures


def summary(numbers: dict[str, Any]) -> str:
    """Some heads' divergence of modes, and its ratio to the linear head's and to those they are paired with."""
    columns = ["head", "seeds", "divergence", "modes", "ratio to `linear`", "ratio to another"]
    divergence = numbers["primary"]["measure"]
    rows = []
    for arm in (arm for arm in HEADS if arm in numbers["arms"]):
        measures = [run["measures"] for run in numbers["arms"][arm]]
        spread = with_range([one[divergence] for one in measures], geometric=True)
        modes = with_range([one[MODES[divergence]] for one in measures])
        ratios = {base: _ratio(numbers["pairs"].get(f"{arm} − {base}")) for base in HEADS}
        others = [f"`{base}`: {ratio}" for base, ratio in ratios.items() if ratio and base != "linear"]
        rows.append([HEADS[arm], str(len(measures)), spread, modes, ratios["linear"], "; ".join(others)])
    return "\n".join(table(columns, rows))


def published(numbers: dict[str, Any]) -> str:
    """Modes and KL of the last measurement, mean ± standard error over seeds, beside what PacGAN's authors report."""
    columns = ["", "seeds", "modes", "KL", "published: modes", "KL"]
    rows = []
    for arm, runs in numbers["arms"].items():
        ours = [_with_error([_last(run["curve"], name) for run in runs]) for name in ("mode_count", "mode_divergence")]
        rows.append([f"`{arm}`", str(len(runs)), *ours, *PUBLISHED.get(arm, ("", ""))])
    return "\n".join(table(columns, rows))


def verdicts(numbers: dict[str, Any]) -> str:
    """A row for each pair of arms: how they differ in the primary measure, and what the rules make of it."""
    logarithmic = numbers["primary"]["scale"] == "log"
    columns = ["arms", "ratio" if logarithmic else "difference", "95 % interval", "seeds", "p", "verdict"]
    rows = []
    for names, pair in numbers["pairs"].items():
        interval = pair["contrast"]["interval"]
        bounds = (interval["mean"], interval["low"], interval["high"])
        value, span = ratio(*bounds) if logarithmic else (f"{bounds[0]:+.3g}", f"{bounds[1]:+.3g} to {bounds[2]:+.3g}")
        arms = names.replace(" − ", " / ") if logarithmic else names
        verdict = f"**{pair['answer']}**" if pair["answer"] != "undecided" else "undecided"
        rows.append([arms, value, span, str(interval["count"]), probability(pair["p"]), verdict])
    return "\n".join(table(columns, rows))


def report_page(name: str) -> str:
    """The whole report of an experiment, as a page of its own."""
    report, numbers, _ = found(name)
    command = f"    python compare.py configs/experiments/{name}.yaml --report-only"
    head = f"# {name}\n\n{numbers['question']} What it means: [the study](../study.md).\n\n{command}\n\n"
    return head + report.replace(f"](study_{name}.png)", f"](../study_{name}.png)") + "\n"


def draw_summary(names: list[str], path: Path) -> None:
    """All pairs of arms of several experiments: ratios with their intervals, coloured by verdict."""
    rows: list[tuple[str, dict[str, Any] | None]] = []
    for name in names:
        numbers = found(name)[1]
        rows.append((name, None))
        rows += [(arms.replace(" − ", " / "), pair) for arms, pair in numbers["pairs"].items()]
    figure = Figure(figsize=(9, 0.6 + 0.2 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for place, (_, pair) in enumerate(rows):
        if pair is not None:
            interval, colour = pair["contrast"]["interval"], COLOURS[pair["answer"]]
            axis.plot([math.exp(interval["low"]), math.exp(interval["high"])], [place, place], color=colour)
            axis.plot(math.exp(interval["mean"]), place, "o", color=colour, markersize=4)
    axis.set(xscale="log", xlabel="ratio of the primary measure, with its 95 % interval; below 1 the first is better")
    axis.axvline(1, color="black", linewidth=0.5)
    axis.set_yticks(range(len(rows)), [label if pair else f"{label}:" for label, pair in rows], fontsize=7)
    axis.legend(handles=[Patch(color=colour, label=answer) for answer, colour in COLOURS.items()], fontsize=7)
    axis.invert_yaxis()
    figure.savefig(path, format="png", dpi=100)


def _ratio(pair: dict[str, Any] | None) -> str:
    if pair is None:
        return ""
    times, bounds = ratio(*(pair["contrast"]["interval"][name] for name in ("mean", "low", "high")))
    return f"{times} ({bounds}): {pair['answer']}"


def _last(curve: list[dict[str, float]], measure: str) -> float:
    return [point[f"evaluation/{measure}"] for point in curve if f"evaluation/{measure}" in point][-1]


def _with_error(values: list[float]) -> str:
    """The mean and its standard error; counts to a tenth, divergences to a hundredth."""
    places = 1 if max(values) > 10 else 2
    return f"{mean(values):.{places}f} ± {stdev(values) / math.sqrt(len(values)):.{places}f}"


def written(text: str) -> str:
    """`text` with every block made anew."""

    def block(match: re.Match[str]) -> str:
        report, numbers, _ = found(match[3])
        tables = {"summary": summary, "verdicts": verdicts, "published": published}
        return f"{match[1]}{report if match[2] == 'report' else tables[match[2]](numbers)}\n{match[4]}"

    return BLOCK.sub(block, text)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; end with status 1 where a page is not as it would be.")
def main(check: bool) -> None:
    """Bring the pages up to date with the outcomes in docs/results/."""
    blocks = [(kind, name) for page in PAGES for _, kind, name, _ in BLOCK.findall(page.read_text(encoding="utf-8"))]
    whole = [name for kind, name in blocks if kind == "verdicts"]
    texts = {page: written(page.read_text(encoding="utf-8")) for page in PAGES}
    texts |= {REPORTS / f"{name}.md": report_page(name) for name in whole}
    stale = [page for page, text in texts.items() if not page.exists() or page.read_text(encoding="utf-8") != text]
    if not check:
        REPORTS.mkdir(exist_ok=True)
        for page in stale:
            page.write_text(texts[page], encoding="utf-8")
        for name in {name for _, name in blocks}:
            for file, picture in found(name)[2].items():
                if any(f"]({file})" in text or f"](../{file})" in text for text in texts.values()):
                    (ROOT / "docs" / file).write_bytes(picture)
        draw_summary([name for name in whole if found(name)[1]["primary"]["scale"] == "log"], SUMMARY)
        return
    for page in stale:
        click.echo(f"{page.relative_to(ROOT)}: not what the outcomes say; python docs/write_study.py", err=True)
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
