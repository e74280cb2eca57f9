"""Every mistake in a config is one line that names the key."""

from pathlib import Path

import pytest
import yaml

from gan.build import build_discriminator, build_generator, build_loss, build_stage_weights, image_facts
from gan.config import Config, load_config, parse_yaml, validate
from gan.errors import UserError
from tests import DEFAULT, ROOT

CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "experiments")


def build(config: Config) -> None:
    facts = image_facts(config)
    build_generator(config, facts)
    discriminator = build_discriminator(config, facts)
    build_stage_weights(config, discriminator.stages)
    build_loss(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_is_accepted_and_survives_being_saved(path: Path) -> None:
    config = load_config(path)
    assert validate(parse_yaml(config.to_yaml(), "saved")) == config
    assert validate(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generator.widht=64", ["generator.widht", "did you mean 'generator.width'"]),
        ("discriminator.haed.name=linear", ["discriminator.haed", "'discriminator.head'"]),
        ("trianing={}", ["trianing", "'training'"]),
        ("generator.width=wide", ["generator.width", "'wide' found", "integer"]),
        ("generator.width=0", ["generator.width", "0 found", "greater than or equal to 1"]),
        ("generator.width=64.0", ["generator.width", "64.0 found", "integer"]),
        ("training.steps=true", ["training.steps", "True found"]),
        ("training.precision=fp16", ["training.precision", "'auto', 'float32' or 'bfloat16'"]),
        ("optimizer.betas=[0.5]", ["optimizer.betas", "at least 2"]),
        ("optimizer.generator_lr=.inf", ["optimizer.generator_lr", "inf found"]),
        ("generator.width.deep=1", ["generator.width.deep", "no key 'deep'"]),
        ("generator", ["--set generator", "section.key=value"]),
        ("generator.width={a: 1, a: 2}", ["'a' appears twice"]),
        ("generator.width=[", ["generator.width", "not valid YAML"]),
        ("generator.options=&x [*x]", ["aliases are not accepted"]),
        ("objective.stage_weights=[0, 0, 0]", ["objective.stage_weights"]),
    ],
)
def test_the_schema_names_the_key_what_was_found_and_what_is_accepted(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_config(DEFAULT, [override])
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["generator.name=snagn"], ["generator.name", "did you mean 'sngan'"]),
        (["discriminator.head.name=cascading"], ["discriminator.head.name", "'cascading_rejection'"]),
        (["discriminator.head.options.stagess=2"], ["discriminator.head.options.stagess", "'stages'"]),
        (["discriminator.head.options.stages=many"], ["discriminator.head.options.stages", "'many' found"]),
        (["discriminator.head.options.stages=1000"], ["discriminator.head.options.stages", "1 to 32"]),
        (["discriminator.head.options.rejection=total"], ["options.rejection", "'none' or 'decorrelated'"]),
        (["discriminator.head.options.in_features=3"], ["discriminator.head.options.in_features", "no such option"]),
        (["data.resolution=40"], ["data.resolution", "40", "32, 48, 64, 128"]),
        (["discriminator.backbone.name=dcgan", "data.resolution=96"], ["data.resolution", "96"]),
        (["discriminator.head.name=projection", "discriminator.head.options={}"], ["'projection' needs conditional"]),
        (["conditional=true", "discriminator.head.name=linear", "discriminator.head.options={}"], ["ignores labels"]),
        (["objective.loss=hing"], ["objective.loss", "'hinge'"]),
        (["objective.stage_weights=[1, 2]"], ["objective.stage_weights", "2 weights found, 3 accepted"]),
        (["data.source=cifer10"], ["data.source", "'cifar10'"]),
        (["conditional=true", "data.source=celeba"], ["conditional: true found", "no labels"]),
    ],
)
def test_the_builder_refuses_what_does_not_fit_together(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build(load_config(DEFAULT, overrides))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_overrides_are_yaml() -> None:
    overrides = [
        "optimizer.generator_lr=1e-3",
        "conditional=true",
        "data.flip=null",
        "objective.stage_weights=[1, 2, 3]",
    ]
    config = load_config(DEFAULT, overrides)
    assert config.optimizer.generator_lr == 1e-3
    assert config.conditional is True
    assert config.data.flip is None
    assert build_stage_weights(config, 3)().tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "mapping"),
        ("a: [", "line 1"),
        ("a: 1\na: 2", "twice"),
        ("1: 2", "not a string"),
        ("!!python/name:os.system", "not valid YAML"),
    ],
)
def test_files_that_are_no_config_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        load_config(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_what_arms_share_starts_the_same() -> None:
    cascade = load_config(DEFAULT)
    linear = load_config(DEFAULT, ["discriminator.head.name=linear", "discriminator.head.options={}"])
    facts = image_facts(cascade)
    pairs = [
        (build_generator(config, facts).state_dict(), build_discriminator(config, facts).backbone.state_dict())
        for config in (cascade, linear)
    ]
    for first, second in zip(*pairs, strict=True):
        assert all((first[name] == second[name]).all() for name in first)
    other = build_generator(load_config(DEFAULT, ["seed=1"]), facts).state_dict()
    assert any((pairs[0][0][name] != other[name]).any() for name in other)
