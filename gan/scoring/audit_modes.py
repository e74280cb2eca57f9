"""Which modes does a run's generator leave out or favour: what `evaluate.py modes` does."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gan.data.recipe import Labels, Pixels
from gan.data.stacked_mnist import triple_shares
from gan.errors import UserError
from gan.files import atomic_path
from gan.metrics.audits.features import PixelExtractor
from gan.metrics.audits.modes import (
    ModeReport,
    assign,
    compare_occupancy,
    exact_divergence,
    find_communities,
    mutual_neighbour_graph,
)
from gan.metrics.extractors.interface import identify
from gan.pictures import Row, captioned_rows
from gan.scoring.audited_run import AuditedRun, AuditOptions, MeasuredImages
from gan.scoring.digit_readers import DIGIT_READERS

WHITENING = {"components": 32}  # few columns keep classes together: docs/results/whitening.md
HELD_BACK = 5  # every fifth training image is kept from the graph where there are no held-out images
SHOWN_MODES, SHOWN_IMAGES = 12, 8  # in each grid; of each mode


@dataclass(frozen=True)
class Modes:
    """Real and generated images by mode: `real_images` with `real_modes` are the examples that are shown.

    `protocol` says how the modes were read, `facts` what else was found.
    """

    report: ModeReport
    control: ModeReport
    real_images: Pixels
    real_modes: Labels
    generated: MeasuredImages
    generated_modes: Labels
    reader: str
    facts: dict[str, Any]
    protocol: dict[str, Any]


def reads_digits(run: AuditedRun, by: str) -> bool:
    """Whether modes are classes that a classifier reads, and not communities of a graph; `by` as in `audit_modes`.

    Raises:
        UserError: `by` does not fit the source.
    """
    digits = run.config.data.source in DIGIT_READERS
    if by == "digits" and not digits:
        raise UserError(f"--by digits: {run.config.data.source} is no source of digits; accepted: communities")
    return digits and by != "communities"


def audit_modes(run: AuditedRun, options: AuditOptions, by: str, minimum_size: int, as_json: bool) -> str:
    """Compare how generated and real images are spread over the modes of the real ones; returns a table, or JSON.

    Args:
        run: as `open_run` gives it.
        options: `neighbours` make the graph, and vote on a new image.
        by: `digits`, classes read by a classifier; `communities` of a graph; `auto`, digits where the source is one.
        minimum_size: of a community, in training images.
        as_json: return the saved JSON.

    Raises:
        UserError: `by` does not fit the source, or an option is out of range.
    """
    modes = digit_modes(run) if reads_digits(run, by) else community_modes(run, options, minimum_size)
    stem = run.stem("modes", modes.reader)
    save_examples(run.path / "audits", stem, modes)
    content = {
        "audit": "modes",
        "total": modes.report.total,
        "covered": modes.report.covered,
        **modes.facts,
        **asdict(modes.report),
        "control": asdict(modes.control),
    }
    file = run.save(stem, content, {**modes.protocol, "generated": modes.generated.identity})
    if as_json:
        return file.read_text(encoding="utf-8").rstrip()
    return f"{table(run, modes)}\n\nprotocol in {file}, examples beside it"


def digit_modes(run: AuditedRun) -> Modes:
    """Classes read by a classifier, against the labels of the training images; the control is the test split."""
    training = run.training_images()
    control = run.held_out_images() or training
    assert training.labels is not None
    classifier = DIGIT_READERS[run.config.data.source](training.resolution, run.config.data.root)
    generated = run.generated(PixelExtractor())
    read = classifier.classify(generated.images)
    names = training.class_names
    share = np.bincount(read, minlength=len(names)) / len(read)
    divergences = {"KL(images ‖ uniform)": exact_divergence(share, np.full(len(names), 1 / len(names)))}
    if training.parts is not None and training.parts.labels is not None:
        divergences["KL(images ‖ training triples)"] = exact_divergence(share, triple_shares(training.parts.labels))
    return Modes(
        report=_compare(run, read, training.labels, names),
        control=_compare(run, classifier.classify(control.images), training.labels, names),
        real_images=training.images,
        real_modes=training.labels,
        generated=generated,
        generated_modes=read,
        reader="digits",
        facts={**divergences, "classifier's accuracy": classifier.accuracy},
        protocol={
            "modes": "classes, read by a classifier",
            "classifier": classifier.identity,
            "real": {"name": training.source, "split": training.split, "content_hash": training.content_hash},
            "control": {"name": control.source, "split": control.split, "content_hash": control.content_hash},
        },
    )


def community_modes(run: AuditedRun, options: AuditOptions, minimum_size: int) -> Modes:
    """Communities of training images, against held-out images assigned to them; the control is one half of those
    against the other. Where there are none, every fifth training image is held back from the graph.
    """
    training, real, held_back = graph_and_reference(run, options)
    generated = run.generated(run.extractor)
    whitening = options.whitening(training.features, **WHITENING)
    nodes = whitening.transform(training.features)
    edges = mutual_neighbour_graph(nodes, options.neighbours, run.device)
    communities = find_communities(edges, len(nodes), minimum_size, run.config.evaluation.seed)

    def modes_of(images: MeasuredImages) -> Labels:
        queries = whitening.transform(images.features)
        return assign(queries, nodes, communities, options.neighbours, device=run.device)

    real_modes, generated_modes = modes_of(real), modes_of(generated)
    names = [f"community {number}" for number in range(int(communities.max()) + 1)]
    return Modes(
        report=_compare(run, generated_modes, real_modes, names),
        control=_compare(run, real_modes[::2], real_modes[1::2], names),
        real_images=training.images,
        real_modes=communities,
        generated=generated,
        generated_modes=generated_modes,
        reader=identify(run.extractor).name,
        facts={"edges": len(edges), "in no community": int((communities < 0).sum())},
        protocol={
            "modes": "communities, Infomap on the mutual nearest-neighbour graph",
            **run.reader(whitening),
            "neighbours": options.neighbours,
            "minimum_size": minimum_size,
            "training": training.identity,
            "real": real.identity | {"held_back_from_training": held_back},
        },
    )


def graph_and_reference(run: AuditedRun, options: AuditOptions) -> tuple[MeasuredImages, MeasuredImages, bool]:
    """Training images for the graph, real ones that are not in it, and whether those are training images too."""
    training = run.measured(run.training_images(), options.gallery)
    store = run.held_out_images()
    if store is not None:
        return training, run.measured(store, options.held_out), False
    back = np.arange(len(training)) % HELD_BACK == 0
    return training.rows(np.flatnonzero(~back)), training.rows(np.flatnonzero(back)), True


def _compare(run: AuditedRun, images: Labels, real: Labels, names: Sequence[str]) -> ModeReport:
    counts, real_counts = (np.bincount(modes, minlength=len(names)) for modes in (images, real))
    return compare_occupancy(counts, real_counts, names, run.config.evaluation.seed)


def save_examples(directory: Path, stem: str, modes: Modes) -> None:
    """Real and generated examples of the modes that the generator gives least of, and most of, for their real share."""
    report = modes.report
    generated, real = np.array(report.generated), np.array(report.real)
    ratio = (generated + 0.5) / generated.sum() / ((real + 0.5) / real.sum())
    for name, order in (("least", np.argsort(ratio, kind="stable")), ("most", np.argsort(-ratio, kind="stable"))):
        rows = [_row(modes, int(mode)) for mode in order[:SHOWN_MODES]]
        with atomic_path(directory / f"{stem}_{name}.png") as temporary:
            captioned_rows(rows, (SHOWN_IMAGES, SHOWN_IMAGES)).save(temporary, format="PNG")


def _row(modes: Modes, mode: int) -> Row:
    report = modes.report
    verdicts = {"missed": report.missed, "under-produced": report.under, "over-produced": report.over}
    verdict = next((name for name, listed in verdicts.items() if mode in listed), "by chance, or small")
    shares = (
        f"{name} {counts[mode] / sum(counts):.2%}"
        for name, counts in (("real", report.real), ("generated", report.generated))
    )
    real = np.flatnonzero(modes.real_modes == mode)[:SHOWN_IMAGES]
    generated = np.flatnonzero(modes.generated_modes == mode)[:SHOWN_IMAGES]
    groups = [modes.real_images[row] for row in real], [modes.generated.images[row] for row in generated]
    return Row((report.names[mode], *shares, verdict), groups)


def table(run: AuditedRun, modes: Modes) -> str:
    """The result in a few lines, generated images beside the control."""
    rows = [("", "generated", "real control")]
    columns = [_column(report) for report in (modes.report, modes.control)]
    rows += [(name, columns[0][name], columns[1][name]) for name in columns[0]]
    lines = [f"{run.path} step {run.step} {run.weights}: {modes.report.covered} of {modes.report.total} modes covered"]
    lines += [f"  {name:<26} {first:<26} {second}" for name, first, second in rows]
    for name, value in modes.facts.items():
        lines.append(f"  {name:<26} {value:,}" if isinstance(value, int) else f"  {name:<26} {value:.4g}")
    return "\n".join(lines)


def _column(report: ModeReport) -> dict[str, str]:
    def listed(modes: Sequence[int]) -> str:
        shown = ", ".join(report.names[mode].removeprefix("community ") for mode in modes[:6])
        return f"{len(modes)}" + (f": {shown}" if shown else "") + (", …" if len(modes) > 6 else "")

    return {
        "images": f"{sum(report.generated):,}",
        "modes covered": f"{report.covered} of {report.total}",
        "KL(images ‖ real)": f"{report.kl_generated_real:.4f}",
        "  by chance": f"{report.chance:.4f}, p = {report.p_value:.2g}",
        "KL(real ‖ images)": f"{report.kl_real_generated:.4f}",
        "missed": listed(report.missed),
        "under-produced": listed(report.under),
        "over-produced": listed(report.over),
        "empty, maybe by chance": listed(report.undecided),
    }
