"""Pages that are made from the code or from results still say what those say."""

import importlib.util
import json
import re
import textwrap
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy import stats

from gan.experiments.comparison import load_comparison
from tests import ROOT

STEP = (ROOT / "docs" / "step.md").read_text(encoding="utf-8")


def script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_table_of_the_study_is_made_from_the_committed_results() -> None:
    write_study = script("write_study")
    for page in write_study.PAGES:
        text = page.read_text(encoding="utf-8")
        assert write_study.BLOCK.findall(text)
        assert write_study.written(text) == text
    study = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    names = [name for _, kind, name, _ in write_study.BLOCK.findall(study) if kind == "verdicts"]
    assert sorted(names) == sorted(page.stem for page in write_study.REPORTS.glob("*.md"))
    for name in names:
        assert (write_study.REPORTS / f"{name}.md").read_text(encoding="utf-8") == write_study.report_page(name)


def test_modes_beside_the_published_ones_are_means_with_their_standard_errors() -> None:
    write_study = script("write_study")
    rows = write_study.published(write_study.found("penalties_stacked_mnist")[1]).splitlines()[2:]
    for arm, row in zip(("exact", "finite_difference", "none"), rows, strict=True):
        files = sorted((ROOT / "docs" / "results" / "penalties_stacked_mnist").glob(f"{arm}_seed*.json"))
        runs = [json.loads(file.read_text(encoding="utf-8"))["measures"] for file in files]
        cells = [f" `{arm}` ", " 10 "]
        for name, places in (("mode_count", 1), ("mode_divergence", 2)):
            values = [run[name] for run in runs]
            cells.append(f" {np.mean(values):.{places}f} ± {stats.sem(values):.{places}f} ")
        assert row.split("|")[1:5] == cells


def test_the_configs_page_has_every_key_of_the_schema() -> None:
    tabulate_config = script("tabulate_config")
    assert tabulate_config.PAGE.read_text(encoding="utf-8") == tabulate_config.page()


def test_the_experiment_that_the_page_shows_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "comparisons.md").read_text(encoding="utf-8")
    shown = re.search(r"^    task: comparison\n(?:    .*\n)+", page, re.MULTILINE)
    assert shown is not None
    file = tmp_path / "experiment.yaml"
    file.write_text(shown[0].replace("../stacked_digits", str(ROOT / "configs" / "stacked_digits")), encoding="utf-8")
    comparison = load_comparison(file, (), tmp_path / "out")
    assert {run.arm for run in comparison.runs} == {"linear", "independent_4", "cascade_4"}


def dedented_windows(path: str, size: int) -> set[str]:
    """All runs of so many lines of a file, without their common indentation."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    return {textwrap.dedent("\n".join(lines[start : start + size])) for start in range(len(lines) - size + 1)}


def test_every_excerpt_of_the_step_is_the_code() -> None:
    excerpts = re.findall(r"^`([\w/]+\.py)`:\n```python\n(.*?)\n```$", STEP, re.DOTALL | re.MULTILINE)
    assert len(excerpts) == STEP.count("```python") > 10
    for path, code in excerpts:
        assert code in dedented_windows(path, len(code.splitlines())), (
            f"docs/step.md has other code than {path}:\n{code}"
        )


def test_a_reader_of_the_step_opens_at_most_eight_files() -> None:
    files = re.findall(r"^\| `(gan/[\w/]+\.py)` \|", STEP, re.MULTILINE)
    assert 0 < len(files) <= 8
    assert all((ROOT / path).is_file() for path in files)


def test_the_damage_that_metrics_see_is_what_was_measured_with_todays_metrics_and_feature_spaces() -> None:
    tabulate_damage = script("tabulate_damage")
    text = tabulate_damage.PAGE.read_text(encoding="utf-8")
    assert tabulate_damage.page(text) == text
    assert tabulate_damage.outdated() == []
