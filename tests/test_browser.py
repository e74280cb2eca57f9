"""TensorBoard as a user sees it: a real browser is shown a run that `train.py` has made."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from queue import Empty, Queue

import numpy as np
import pytest
from PIL import Image

from tests import DEFAULT, ROOT
from tests.browser import NAMES, Page, find_browser, opened
from tests.test_training import TINY

SCORED = ["evaluation.at_end=true", "evaluation.samples=6", "evaluation.reference_samples=8", "conditional=true"]
TAG = "evaluation/FD (efficientnet_lite0, 6 vs 8 all)"
# For every picture: its size, and the sum of its red channel.
PICTURES = """
const pictures = [...elements(document)].filter(element => element.tagName === 'IMG' && element.naturalWidth);
pictures.map(picture => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  const context = canvas.getContext('2d');
  context.drawImage(picture, 0, 0);
  const values = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return [canvas.width, canvas.height, values.filter((_, place) => place % 4 === 0).reduce((a, b) => a + b, 0)];
});
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, conditional, scored at its end."""
    folder = tmp_path_factory.mktemp("browser")
    out = folder / "outputs" / "quick"
    settings = [part for one in (*TINY, *SCORED, f"data.root={folder / 'data'}") for part in ("--set", one)]
    command = [sys.executable, str(ROOT / "train.py"), str(DEFAULT), *settings, "--device", "cpu", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    """Where TensorBoard serves the folder that the run is in."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run.parent)]
    command += ["--host", "127.0.0.1", "--port", "0"]  # a free one
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told: Queue[str] = Queue()
    threading.Thread(target=lambda: [*map(told.put, chain(process.stderr, [""]))], daemon=True).start()
    line = "it said nothing for a minute"
    try:
        while not (found := re.search(r"http://127\S+/", line)):
            if not (line := told.get(timeout=60)):
                break
    except Empty:
        pass
    try:
        if not found:
            pytest.skip(f"TensorBoard cannot serve here: {line or 'it ended'}")
        yield found[0]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def page(run: Path, address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """An empty page of a browser."""
    browser = find_browser()
    if browser is None:
        pytest.skip(f"no browser is installed; any of {', '.join(NAMES)} would do")
    with opened(browser, tmp_path_factory.mktemp("profile")) as page:
        yield page


def show(page: Page, address: str, tab: str, *texts: str) -> None:
    """Open a tab of TensorBoard and wait until all of `texts` are written there."""
    page.call("Page.navigate", url=f"{address}?{tab}#{tab}")
    page.wait_until(lambda: set(texts) <= set(page.texts()))
    missing = set(texts) - set(page.texts())
    assert not missing, (missing, page.texts())


def score(run: Path) -> float:
    (line,) = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "evaluation/" in line]
    return json.loads(line)["evaluation/frechet_distance"]


def test_scalars_are_shown_under_the_name_of_the_run(page: Page, address: str, run: Path) -> None:
    group, _, rest = TAG.partition("/")
    show(page, address, "timeseries", "quick", group, f"/{rest}", f"{score(run):.4f}", "learning_rate", "stages")
    assert not [text for text in page.texts() if text.startswith("quick") and text != "quick"]


def test_stages_of_a_quantity_share_a_chart(page: Page, address: str) -> None:
    show(page, address, "custom_scalars", "stages", "scores: margin", "auc", "removed from fake", "Matches (3)")
    page.wait_until(lambda: page.texts().count("Matches (3)") == 10)  # they come one after the other
    assert page.texts().count("Matches (3)") == 10


def test_images_are_shown_pixel_by_pixel(page: Page, address: str, run: Path) -> None:
    show(page, address, "images", "quick", "samples", "real")
    files = [np.asarray(Image.open(run / "samples" / name)) for name in ("real_00000000.png", "samples_00000006.png")]
    expected = [[image.shape[1], image.shape[0], int(image.sum())] for image in files]
    page.wait_until(lambda: all(image in page.evaluate(PICTURES) for image in expected))
    shown = page.evaluate(PICTURES)
    assert all(image in shown for image in expected), (expected, shown)


def test_settings_and_the_last_score_are_in_the_table_of_runs(page: Page, address: str, run: Path) -> None:
    shown = ["quick", "discriminator.head.name", "cascading_rejection", "training.batch_size", TAG]
    show(page, address, "hparams", *shown, f"{score(run):.5g}")
