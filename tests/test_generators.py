"""The generators of the README's pictures: small, whole, and of the score that is printed."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import evaluate
import gan
from tests import ROOT

FOLDER = ROOT / "docs" / "generators"
PRINTED = {
    name: float(distance)
    for name, distance in re.findall(
        r"^\| \[(\w+)\]\(\w+/README\.md\) .*\| ([\d.]+) \|$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.M
    )
}


def test_every_generator_is_listed_and_all_are_small() -> None:
    assert PRINTED.keys() == {path.name for path in FOLDER.iterdir() if path.is_dir()} and PRINTED
    assert sum(file.stat().st_size for file in FOLDER.rglob("*.safetensors")) <= 2_000_000


@pytest.mark.parametrize("name", PRINTED)
def test_a_generator_makes_images_and_came_with_the_printed_score(name: str) -> None:
    generator = gan.load(FOLDER / name, device="cpu")
    images = generator.sample(8, seed=0)
    assert images.shape == (8, generator.description.channels, 32, 32) and images.float().std() > 20
    picture = Image.open(FOLDER / name / "samples.png")
    assert picture.width > 8 * 32 and picture.height >= 8 * 32
    scores = [one["metrics"]["frechet_distance"] for one in generator.description.evaluations]
    assert any(score == pytest.approx(PRINTED[name], abs=0.05) for score in scores), scores
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Fréchet distance {PRINTED[name]}" in readme
    assert f"python evaluate.py checkpoint docs/generators/{name}" in readme


@pytest.mark.slow
def test_the_digits_are_scored_to_the_printed_number_again(tmp_path: Path) -> None:
    copy = shutil.copytree(FOLDER / "digits", tmp_path / "digits")
    arguments = ["checkpoint", str(copy), "--json", "--device", "cpu", "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(evaluate.main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"]["frechet_distance"] == pytest.approx(PRINTED["digits"], abs=0.05)
