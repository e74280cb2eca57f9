"""Every mistake in a config is one line that names the key."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import yaml

from gan.build import ImageFacts, build_discriminator, build_generator, build_loss, build_stage_weights, image_facts
from gan.config import Config, dump_yaml, load_config, parse_yaml, validate
from gan.errors import UserError
from gan.objectives.losses import LeastSquares
from tests import DEFAULT, ROOT

LEAST_SQUARES = "objective.loss=least_squares"
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "experiments")


def build(config: Config) -> None:
    facts = image_facts(config)
    build_generator(config, facts)
    discriminator = build_discriminator(config, facts)
    build_stage_weights(config, discriminator.stages)
    build_loss(config)


def test_facts_of_files_are_had_without_decoding_an_image(tmp_path: Path) -> None:
    images = np.zeros((6, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "grey.npz", images=images[..., 0], labels=np.arange(6) % 4)
    np.savez(tmp_path / "plain.npz", images=np.repeat(images, 3, axis=3))
    np.savez(tmp_path / "float.npz", images=images / 255)
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "classes" / name / "image.png").write_bytes(b"no image")
        (tmp_path / "lsun" / f"{name}_train_lmdb").mkdir(parents=True)
        (tmp_path / "lsun" / f"{name}_train_lmdb" / "data.mdb").touch()

    def facts(source: str, path: str, conditional: bool = True) -> ImageFacts:
        settings = [f"data.source={source}", f"data.path={tmp_path / path}", f"data.root={tmp_path / 'data'}"]
        return image_facts(load_config(DEFAULT, [*settings, f"conditional={str(conditional).lower()}"]))

    assert facts("npz", "grey.npz") == ImageFacts(32, 1, 4)
    assert facts("npz", "plain.npz", False) == ImageFacts(32, 3, None)
    assert facts("image_folder", "classes") == facts("lsun", "lsun") == ImageFacts(32, 3, 2)
    for path, words in (("float.npz", "found float64"), ("plain.npz", "has no labels")):
        with pytest.raises(UserError, match=words):
            facts("npz", path)
    assert not (tmp_path / "data").exists()


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
        ("optimizer.lr=1e-3", ["optimizer.lr", "'optimizer.discriminator_lr' or 'optimizer.generator_lr'"]),
        ("optimizer.generator_lr=.inf", ["optimizer.generator_lr", "inf found"]),
        ("generator.width.deep=1", ["generator.width.deep", "no key 'deep'"]),
        ("generator", ["--set generator", "section.key=value"]),
        ("generator.width={a: 1, a: 2}", ["'a' appears twice"]),
        ("generator.width=[", ["generator.width", "not valid YAML"]),
        ("generator.options=&x [*x]", ["aliases are not accepted"]),
        ("generator.width=!!bool maybe", ["generator.width", "tags are not accepted"]),
        ('data.path="\\0"', ["data.path", "'\\x00' is not accepted"]),
        ('data.path="\\ud800"', ["data.path", "'\\ud800' is not accepted"]),
        (f"generator.width={'9' * 50_000}", ["generator.width", "digits"]),
        ("generator.width=0x", ["generator.width", "'0x' found"]),
        ("data.flip=no", ["data.flip", "'no' found", "boolean"]),
        ("objective.stage_weights=[0, 0, 0]", ["objective.stage_weights"]),
        ("objective={stage_weights: [0, 1, 1], generator_stages: first}", ["stage_weights: 0 found first"]),
        ("objective.loss=3", ["objective.loss: 3 found", "a name or a mapping"]),
        ("objective.loss={nmae: hinge}", ["objective.loss.nmae", "'objective.loss.name'"]),
        ("objective.loss.margin=1", ["objective.loss is a value", "no key 'margin'"]),
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
        (["objective.loss.options.margin=1.0"], ["objective.loss.options.margin: hinge has no such option"]),
        ([LEAST_SQUARES, "objective.loss.options.fake_targte=0.0"], ["loss.options.fake_targte", "'fake_target'"]),
        ([LEAST_SQUARES, "objective.loss.options.fake_target=low"], ["loss.options.fake_target", "'low' found"]),
        ([LEAST_SQUARES, "objective.loss.options.fake_target=.nan"], ["loss.options.fake_target: nan found", "finite"]),
        ([LEAST_SQUARES, "objective.loss.options.fake_target=1.0"], ["loss.options.real_target: 1.0 found"]),
        ([LEAST_SQUARES, "objective.loss.options.fake_target=2.0"], ["1.0 found, above fake_target (2.0) accepted"]),
        (["objective.stage_weights=[1, 2]"], ["objective.stage_weights", "2 weights found, 3 accepted"]),
        (["data.source=cifer10"], ["data.source", "'cifar10'"]),
        (["conditional=true", "data.source=celeba"], ["conditional: true found", "no labels"]),
        (
            ["conditional=true", "data.source=stl10", "data.split=unlabeled", "data.resolution=96"],
            ["conditional: true found", "stl10 unlabeled has no labels"],
        ),
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


def test_a_loss_is_a_name_or_a_name_and_options_and_is_saved_in_the_shorter_way() -> None:
    plain = load_config(DEFAULT, [LEAST_SQUARES])
    for override in ("objective.loss.options={}", "objective.loss={name: least_squares, options: {}}"):
        assert load_config(DEFAULT, [LEAST_SQUARES, override]) == plain
    assert plain.model_dump()["objective"]["loss"] == "least_squares"
    assert load_config(DEFAULT).model_dump()["objective"]["loss"] == "hinge"
    assert "objective" not in load_config(DEFAULT).model_dump(exclude_defaults=True)

    given = load_config(DEFAULT, [LEAST_SQUARES, "objective.loss.options.fake_target=-1.0"])
    assert given.model_dump()["objective"]["loss"] == {"name": "least_squares", "options": {"fake_target": -1.0}}
    assert validate(yaml.safe_load(given.to_yaml())) == given
    loss = build_loss(given)
    assert isinstance(loss, LeastSquares)
    assert (loss.fake_target, loss.real_target) == (-1.0, 1.0)


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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("0o10", 8), ("0x10", 16), ("+12", 12), ("-0", 0), ("2e-4", 2e-4), ("1E3", 1000.0), (".5", 0.5),
        ("5.", 5.0), ("012.5", 12.5), ("-.inf", -math.inf), ("1:30", "1:30"), ("0:0.5", "0:0.5"), ("yes", "yes"),
        ("1_000", "1_000"), ("2024-01-01", "2024-01-01"), ("0b1", "0b1"), ("<<", "<<"), ("=", "="), ("True", True),
        ("~", None), ("", None), ("'010'", "010"),
    ],
)  # fmt: skip
def test_scalars_are_read_as_the_core_schema_of_yaml_1_2_has_them(text: str, value: object) -> None:
    read = parse_yaml(text, "here")
    assert type(read) is type(value)
    assert read == value


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load_config(DEFAULT, ["data.root=~/x", "data.path=~/y", "evaluation.weights=~/w.pt"])
    assert (config.data.root, config.data.path) == ("/home/somebody/x", "/home/somebody/y")
    assert config.evaluation.weights == "/home/somebody/w.pt"
    assert config.evaluation.reference_path is None


def test_what_is_written_is_read_back_by_both_versions_of_yaml() -> None:
    chance = random.Random(0)
    letters = "0123456789eExoOb_.:+-~ynYNtrueflsoinaINA <>=&*!|'\"#%@`,[]{}?\n \t"
    texts = ["".join(chance.choices(letters, k=chance.randrange(7))) for _ in range(5000)]
    for value in (*texts, 1e-5, 1e22, -0.0, 1e300, 10**30, True, None, [], {}):
        written = dump_yaml({"key": [value]})
        assert parse_yaml(written, "here") == {"key": [value]}
        assert yaml.safe_load(written) == {"key": [value]}


def test_the_best_of_a_run_that_is_never_scored_is_refused() -> None:
    with pytest.raises(UserError, match="which never score; accepted: null"):
        load_config(DEFAULT, ["evaluation.best=fid", "evaluation.at_end=false"])
