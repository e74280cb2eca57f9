"""`gan train`: the same command resumes an interrupted run.

On several devices: `torchrun --nproc_per_node=2 -m gan train CONFIG`, nothing else changes.
"""

import sys
from pathlib import Path

import click

from gan.commands.command_line import INTERRUPTED, FilePath, OneLineCommand, config_names
from gan.commands.reporting import one_line_errors
from gan.errors import UserError
from gan.processes import command_again, importing, one_voice, started_with_others

DEFAULT_CONFIG = "digits/dcgan_cr"


@click.command("train", cls=OneLineCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("config", default=DEFAULT_CONFIG, shell_complete=config_names)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a config key; repeatable.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Short for --set seed=N.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...; one a process.")
@click.option("--out", type=FilePath(), help="Run directory. [default: outputs/<folder>-<config>-seed<seed>]")
@click.option("--init-from", metavar="RUN", type=FilePath(), help="Begin with another run's weights.")
@click.option("--dry-run", is_flag=True, help="Print the resolved config and what it will cost, then exit.")
def main(
    config: str,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    out: Path | None,
    init_from: Path | None,
    dry_run: bool,
) -> None:
    """Train the GAN that CONFIG describes (the embedded digits by default) and score it.

    CONFIG is a file, or the name of one that comes with the package, such as digits/dcgan_cr.
    Everything lands in the run directory; running the same command again resumes, or does nothing when all is done.
    """
    with one_line_errors(), one_voice():
        with importing():  # when they are needed: they take seconds, and a typo in the config should not
            from gan.config import check, find_config, load_tree, validate
        file = find_config(config)
        tree = load_tree(file, overrides)
        name = f"{file.resolve().parent.name}-{file.stem}"
        if tree.get("task") == "classification":
            if seed is not None or dry_run or init_from is not None:
                raise UserError(
                    "--seed, --dry-run and --init-from are for runs; an experiment lists its seeds: --set seeds=[0]"
                )
            if started_with_others():
                raise UserError("task: classification found under torchrun; accepted: one process")
            with importing():
                from gan.device import resolve_device
                from gan.experiments.classification import ClassifierConfig, run_classifier
            experiment = check(ClassifierConfig, tree)
            click.echo(run_classifier(experiment, resolve_device(device), out or Path("outputs") / name))
            return
        resolved = validate(tree if seed is None else {**tree, "seed": seed})
        out = out or Path("outputs") / f"{name}-seed{resolved.seed}"
        with importing():
            from gan import distributed
            from gan.device import resolve_device

            if dry_run:
                from gan.commands.estimates import describe
                from gan.commands.initial_weights import initial_weights
                from gan.training.run_directory import RunDirectory
            else:
                from gan.commands.launch import launch
        chosen = resolve_device(distributed.local_device(device))
        with distributed.joined(chosen):
            done = True
            if not dry_run:
                done = launch(resolved, chosen, out, command_again(), init_from)
            elif distributed.is_main():
                weights = initial_weights(RunDirectory(out), init_from, resolved.training.init_from)
                click.echo(describe(resolved, chosen, weights))
        if not done and not started_with_others():  # torchrun would kill or restart the others over it
            sys.exit(INTERRUPTED)
