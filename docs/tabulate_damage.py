"""What each metric sees: planted damage to real images, measured by every metric, in docs/evaluation.md.

`python docs/tabulate_damage.py --measure` makes docs/damage.json from CIFAR-10, some 30 minutes on one core, and the
page's table from it; without `--measure` the table alone is made anew. `--check` says whether the page is what the
file says, and the file of today's metrics and feature spaces.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torchvision.transforms.v2 import functional as transforms

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan.files import write_text
from gan.metrics.accumulators import ClassCounts, FeatureBank, GaussianStatistics, SplitProbabilities
from gan.metrics.evaluator import METRIC_SEED, Evaluator
from gan.metrics.evidence import Evidence, Tally
from gan.metrics.extractors.catalogue import build_extractor
from gan.metrics.extractors.interface import Extraction, identify
from gan.metrics.images import to_uint8
from gan.metrics.protocol import ReferenceIdentity
from gan.metrics.reference import ReferenceStatistics, content_hash
from gan.metrics.table import METRICS, Metric, score
from gan.metrics.transport import monge_inception_distance
from gan.progress import passing

PAGE, MEASURED = ROOT / "docs" / "evaluation.md", ROOT / "docs" / "damage.json"
BEGIN, END = "<!-- damage -->\n", "<!-- end of damage -->"
EXTRACTORS = ("efficientnet_lite0", "efficientnet_lite0_levels", "random_convolutions")
# The two that are left out are the Fréchet distance at other counts and within classes, and see what it sees.
CHOSEN = [name for name in METRICS if name not in ("fid_infinity", "intra_fid")]
COUNT, KEPT_CLASSES, COPIES, BATCH = 2000, 5, 10, 50
SIZES, DRAWS = (50, 100, 200, 500, 1000, 2000), 5  # of MIND's bias
PROJECTIONS = METRICS["mind"].options["mind_projections"]
Pools = dict[str, Tensor]  # features or logits of each pool of images, `(COUNT, D)`


def pixels(data: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Pools of uint8 images `(COUNT, 3, 32, 32)`, and the labels of `test` and `others` one after the other.

    `reference` are training images, `test` and `others` two sets of test images; each has as many of every class.
    """
    drawn, labels = {}, []
    for split, names in (("train", ["reference"]), ("test", ["test", "others"])):
        with np.load(data / f"cifar10_{split}.npz") as archive:
            images, classes = archive["images"], archive["labels"]
        random, each = np.random.RandomState(METRIC_SEED), COUNT // 10
        members = [random.permutation(np.flatnonzero(classes == one)) for one in range(10)]
        for place, name in enumerate(names):
            rows = random.permutation(np.concatenate([some[place * each : (place + 1) * each] for some in members]))
            drawn[name] = torch.from_numpy(images[rows]).permute(0, 3, 1, 2)
            labels += [torch.from_numpy(classes[rows])] if split == "test" else []
    test, generator = drawn["test"], torch.Generator().manual_seed(METRIC_SEED)
    noise = torch.randn(test.shape, generator=generator) * (20 / 127.5)
    drawn["blur"] = transforms.gaussian_blur(test, [5, 5], [1.0, 1.0])
    drawn["noise"] = to_uint8(test / 127.5 - 1 + noise)
    drawn["grey"] = transforms.rgb_to_grayscale(test, 3)
    drawn["saturated"] = transforms.adjust_saturation(test, 3.0)
    return drawn, torch.cat(labels)


def sets(pools: Pools, labels: Tensor, gaussian: Callable[[Tensor], Tensor] | None) -> dict[str, Tensor]:
    """Features (or logits) of every damaged set, from those of the pools."""
    both = torch.cat([pools["test"], pools["others"]])
    random = torch.Generator().manual_seed(METRIC_SEED)
    found = {
        "none": pools["test"],
        "other images": pools["others"],
        "blur": pools["blur"],
        "noise": pools["noise"],
        "grey": pools["grey"],
        "saturated": pools["saturated"],
        "half the classes": both[labels < KEPT_CLASSES],
        "duplicates": pools["test"][: COUNT // COPIES].repeat(COPIES, 1),
        "memorised": pools["reference"][torch.randint(COUNT, (COUNT,), generator=random)],
    }
    return found if gaussian is None else {**found, "Gaussian": gaussian(pools["test"])}


def gaussian_like(features: Tensor) -> Tensor:
    """As many draws from a Gaussian, moved and stretched to have exactly the mean and covariance of `features`."""
    random = torch.Generator().manual_seed(METRIC_SEED)
    draws = torch.randn(features.shape, generator=random, dtype=torch.float64)
    mean, covariance = features.double().mean(0), features.double().T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    centred = draws - draws.mean(0)
    values, vectors = torch.linalg.eigh(centred.T.cov())
    white = centred @ ((vectors * values.rsqrt()) @ vectors.T)
    return (white @ root + mean).float()


def extracted(name: str, images: Mapping[str, Tensor], kept: Path | None) -> tuple[Evaluator, Pools, Pools]:
    """An evaluator of one feature space, features of all pools, and logits where it has any; `kept` in a folder."""
    network = build_extractor(name)
    evaluator, extraction = Evaluator(network, metrics=measurable(network), progress=False), Extraction(network)
    features, logits = Pools(), Pools()
    for pool, some in images.items():
        file = None if kept is None else kept / f"{name}-{pool}.pt"
        if file is not None and file.exists():
            layers = torch.load(file, weights_only=True)
        else:
            batches = [extraction(batch) for batch in passing(some.split(BATCH), f"{name}, {pool}", "batches")]
            layers = {layer: torch.cat([batch[layer] for batch in batches]) for layer in batches[0]}
            if file is not None:
                torch.save(layers, file)
        features[pool] = layers[evaluator.layer]
        if "logits" in layers:
            logits[pool] = layers["logits"]
    return evaluator, features, logits


def tally(features: Tensor, logits: Tensor | None) -> Tally:
    """What a pass over the images would have kept."""
    found = Tally(GaussianStatistics(), FeatureBank(len(features)))
    if logits is not None:
        found.probabilities, found.logits = SplitProbabilities(len(logits), 10, METRIC_SEED), FeatureBank(len(logits))
        found.classes = ClassCounts()
    found.update(features, logits)
    return found


def measure(name: str, images: Mapping[str, Tensor], labels: Tensor, kept: Path | None) -> dict[str, Any]:
    """Scores of every set in one feature space, with intervals for the undamaged one, and the protocol."""
    evaluator, features, logits = extracted(name, images, kept)
    content = content_hash(images["reference"].permute(0, 2, 3, 1).numpy())
    identity = ReferenceIdentity("cifar10", "train", content, COUNT, (3, 32, 32))
    gaussian = tally(features["reference"], None).gaussian.result()
    reference = ReferenceStatistics(identity, evaluator.identity, evaluator.layer, *gaussian, features["reference"])
    protocol = evaluator.protocol(reference, COUNT, None, "images", "none", "none")
    logits_of = sets(logits, labels, None) if logits else {}
    found: dict[str, Any] = {"protocol": protocol.to_dict(), "scores": {}}
    for damage, some in passing(sets(features, labels, gaussian_like).items(), name, "sets"):
        given = logits_of.get(damage)
        names = [one for one in evaluator.metrics if given is not None or _of_features(one)]
        evidence = Evidence(tally(some, given), reference, protocol, torch.device("cpu"), damage == "none")
        scores = score(names, evidence, 1000 if damage == "none" else 0)
        found["scores"][damage] = scores.metrics
        if scores.intervals:
            found["intervals"] = scores.intervals
    found["bias of MIND"] = bias(features["test"], features["others"])
    return found


def measurable(network: FeatureExtractorBase) -> list[str]:
    """The metrics that an extractor has the layers for."""
    has_logits = "logits" in network.get_requested_features_list()
    return [name for name in CHOSEN if has_logits or _of_features(name)]


def _of_features(name: str) -> bool:
    return not {"probabilities", "classes"} & set(METRICS[name].needs)


def bias(first: Tensor, second: Tensor) -> dict[str, float]:
    """MIND between equally many real images of two sets, where it should be 0: means over some draws."""
    random, found = np.random.RandomState(METRIC_SEED), {}
    for size in SIZES:
        values = []
        for _ in range(DRAWS if size < COUNT else 1):
            one, other = (some[random.permutation(COUNT)[:size]] for some in (first, second))
            values.append(monge_inception_distance(one, other, PROJECTIONS, METRIC_SEED))
        found[str(size)] = sum(values) / len(values)
    return found


def tables(measured: Mapping[str, Any]) -> str:
    """What stands between the marks of the page."""
    damages = list(next(iter(measured.values()))["scores"])
    lines = ["Fréchet distance, as a multiple of that of the undamaged images:", ""]
    lines += _rule(["feature space", *damages[1:]])
    for name, found in measured.items():
        distances = {damage: scores["frechet_distance"] for damage, scores in found["scores"].items()}
        lines.append(_row([f"`{name}`", *(f"{distances[one] / distances['none']:.3g}" for one in damages[1:])]))
    for name, found in measured.items():
        lines += ["", f"`{name}`:", "", *_rule(["", *damages])]
        for metric in (METRICS[one] for one in CHOSEN):
            for key in metric.keys[: 1 if metric.spread else None]:
                if key in found["scores"]["none"]:
                    lines.append(_row([key.replace("_", " ").removesuffix(" mean"), *_cells(found, key, metric)]))
    lines += ["", "MIND between equally many real images of two disjoint sets, which is 0 in the limit:", ""]
    lines += _rule(["images of each", *(f"{size:,}" for size in SIZES)])
    for name, found in measured.items():
        lines.append(_row([f"`{name}`", *(f"{found['bias of MIND'][str(size)]:.3g}" for size in SIZES)]))
    return "\n".join(lines) + "\n"


def _cells(found: Mapping[str, Any], key: str, metric: Metric) -> list[str]:
    """A value of every set; bold where it is worse than undamaged images can be, italic where it is better."""
    scores, cells = found["scores"], []
    none, other = scores["none"][key], scores["other images"][key]
    low, high = found["intervals"].get(key, (none, none))
    room = max(high - low, 4 * abs(other - none))  # twice half the interval, or what another set showed
    for damage in scores:
        value = scores[damage].get(key)
        text = "–" if value is None else f"{value:.3g}"
        if value is not None and abs(value - none) > room:
            better = (value > none) == metric.higher_is_better
            text = f"*{text}*" if better else f"**{text}**"
        cells.append(text)
    return cells


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(cells: list[str]) -> list[str]:
    return [_row(cells), f"|{'---|' * len(cells)}"]


def page(text: str) -> str:
    """The page with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + tables(json.loads(MEASURED.read_text(encoding="utf-8"))) + END + after


def outdated() -> list[str]:
    """In which respects the file of measurements is not of today's metrics and feature spaces."""
    measured, found = json.loads(MEASURED.read_text(encoding="utf-8")), []
    if list(measured) != list(EXTRACTORS):
        found.append(f"feature spaces {', '.join(measured)}")
    options = {name: value for metric in METRICS.values() for name, value in metric.options.items()}
    for name, one in measured.items():
        network = build_extractor(name)
        protocol, identity = one["protocol"], identify(network)
        if (protocol["extractor_weights"], protocol["resize"]) != (identity.weights, identity.resize):
            found.append(f"weights or resizing of {name}")
        found += [f"{name}: {option}" for option in options if protocol.get(option) != options[option]]
        keys = {key for metric in measurable(network) for key in METRICS[metric].keys}
        found += [f"{name}: {key}" for key in sorted(keys ^ set(one["scores"]["none"]))]
    return found


@click.command()
@click.option("--measure", "anew", is_flag=True, help="Measure everything anew.")
@click.option("--data", default=ROOT, type=click.Path(path_type=Path), help="A folder with cifar10_{train,test}.npz.")
@click.option("--kept", type=click.Path(path_type=Path), help="A folder to keep features in, should it be interrupted.")
@click.option("--check", is_flag=True, help="Write nothing; end with status 1 where something is not up to date.")
def main(anew: bool, data: Path, kept: Path | None, check: bool) -> None:
    """Bring docs/evaluation.md up to date with docs/damage.json."""
    if anew:
        images, labels = pixels(data)
        found = {name: measure(name, images, labels, kept) for name in EXTRACTORS}
        write_text(MEASURED, json.dumps(found, indent=1) + "\n")
    text = PAGE.read_text(encoding="utf-8")
    if not check:
        PAGE.write_text(page(text), encoding="utf-8")
        return
    stale = [] if page(text) == text else [f"{PAGE.relative_to(ROOT)}: not what {MEASURED.name} says"]
    stale += [f"{MEASURED.relative_to(ROOT)}: of other {one}" for one in outdated()]
    for line in stale:
        click.echo(f"{line}; python docs/tabulate_damage.py", err=True)
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
