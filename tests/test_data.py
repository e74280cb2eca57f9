"""The data: exact pixels from every source, a cache that can be trusted, and batches that resume to the bit."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from gan.build import build_loader
from gan.config import load_config
from gan.data import image_folder, store, torchvision_sets
from gan.data.image_folder import SUFFIXES, read_rgb
from gan.data.image_store import ImageStore
from gan.data.loader import Loader, real_batch, to_float
from gan.data.recipe import Recipe, square
from gan.data.sampler import Sampler
from gan.data.sources import SOURCES, source_info
from gan.data.store import prepare
from gan.errors import StorageError, UserError
from gan.metrics.images import to_uint8
from gan.progress import say_once
from gan.seeds import derive_seed
from tests import DEFAULT

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def needs_shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not there")
    return SHARED / name


def numbered_store(num_images: int = 23, resolution: int = 4, channels: int = 3, labelled: bool = True) -> ImageStore:
    """Image i is random but for its corner, which holds i; label i % 5."""
    images = np.random.default_rng(0).integers(0, 256, (num_images, resolution, resolution, channels), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(num_images)
    labels = np.arange(num_images, dtype=np.int64) % 5 if labelled else None
    return ImageStore(images, labels, tuple("abcde") if labelled else (), "hash", "npz", "train")


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def refused(*parts: str, source: str, root: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        prepare(source, root=root, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


# sampler


@pytest.mark.parametrize(("num_images", "batch_size"), [(23, 5), (20, 5), (7, 16), (1, 3)])
def test_every_image_once_per_epoch(num_images: int, batch_size: int) -> None:
    sampler = Sampler(num_images, batch_size, seed=3)
    epochs = 6
    drawn = torch.cat([sampler.next_indices() for _ in range(-(-epochs * num_images // batch_size))])
    orders = drawn[: epochs * num_images].reshape(epochs, num_images)
    for order in orders:
        assert sorted(order.tolist()) == list(range(num_images))
    if num_images > 1:
        assert len({tuple(order.tolist()) for order in orders}) == epochs


def test_sampler_seeds_differ_and_repeat() -> None:
    first, again, other = (Sampler(50, 50, seed).next_indices() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sampler_state_is_two_plain_integers_that_resume_anywhere() -> None:
    sampler = Sampler(23, 5, seed=3)
    for _ in range(12):
        state = sampler.state_dict()
        expected = sampler.next_indices()
        resumed = Sampler(23, 5, seed=3)
        resumed.load_state_dict(state)
        assert torch.equal(resumed.next_indices(), expected)
        assert set(state) == {"epoch", "position"}
        assert all(type(value) is int for value in state.values())
    with pytest.raises(ValueError, match="position 23"):
        sampler.load_state_dict({"epoch": 0, "position": 23})


def test_ranks_share_out_the_batch_of_one_process() -> None:
    whole = Loader(numbered_store(), 6, "cpu", flip=True, seed=1)
    ranks = [Loader(numbered_store(), 2, "cpu", flip=True, seed=1, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(9):
        parts = [rank.next_batch() for rank in ranks]
        images, labels = whole.next_batch()
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)
    assert torch.equal(ranks[0].state_dict()["flip"], ranks[2].state_dict()["flip"])


# loader


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("flip", [True, False])
def test_resuming_gives_the_undisturbed_batches(resident: bool, flip: bool) -> None:
    images = numbered_store()
    undisturbed = Loader(images, 5, "cpu", flip=flip, seed=7, resident=resident)
    states, batches = [], []
    for _ in range(14):
        states.append(undisturbed.state_dict())
        batches.append(undisturbed.next_batch())
    for start in (0, 1, 4, 9):
        for resumed in (Loader(images, 5, "cpu", flip=flip, seed=7, resident=resident), undisturbed):
            resumed.load_state_dict(states[start])
            for expected_images, expected_labels in batches[start:]:
                found_images, found_labels = resumed.next_batch()
                assert torch.equal(found_images, expected_images)
                assert torch.equal(found_labels, expected_labels)


def test_state_survives_torch_save(tmp_path: Path) -> None:
    loader = Loader(numbered_store(), 5, "cpu", flip=True, seed=7)
    loader.next_batch()
    torch.save(loader.state_dict(), tmp_path / "state.pt")
    expected = loader.next_batch()[0]
    resumed = Loader(numbered_store(), 5, "cpu", flip=True, seed=7)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(resumed.next_batch()[0], expected)


def test_a_state_with_flips_needs_a_loader_with_flips() -> None:
    state = Loader(numbered_store(), 5, "cpu", flip=True, seed=7).state_dict()
    with pytest.raises(ValueError, match="flips"):
        Loader(numbered_store(), 5, "cpu", flip=False, seed=7).load_state_dict(state)


def test_resident_and_streamed_give_the_same_batches(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", images=random_images(40, 6, 6, 3), labels=np.arange(40) % 4)
    mapped = prepare("npz", path=path, root=tmp_path, resolution=6)
    assert isinstance(mapped.images, np.memmap)
    resident = Loader(mapped, 7, "cpu", flip=True, seed=2)
    streamed = Loader(mapped, 7, "cpu", flip=True, seed=2, resident=False)
    assert resident.resident
    for _ in range(13):
        (first, first_labels), (second, second_labels) = resident.next_batch(), streamed.next_batch()
        assert torch.equal(first, second)
        assert torch.equal(first_labels, second_labels)


def test_large_sets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan.data.loader.RESIDENT_LIMIT", 23 * 4 * 4 * 3 - 1)
    assert not Loader(numbered_store(), 5, "cpu", flip=False, seed=0).resident


@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_the_stored_pixels_and_labels(resident: bool) -> None:
    images = numbered_store()
    loader = Loader(images, 23, "cpu", flip=False, seed=0, resident=resident)
    batch, labels = loader.next_batch()
    assert batch.dtype == torch.float32
    assert labels.dtype == torch.int64
    found = to_uint8(batch).permute(0, 2, 3, 1).numpy()
    which = found[:, 0, 0, 0]
    assert sorted(which) == list(range(23))
    assert np.array_equal(found, images.images[which])
    assert np.array_equal(labels.numpy(), images.labels[which])


def test_flips_half_and_only_horizontally() -> None:
    images = numbered_store(num_images=200)
    images.images[:, 1, 1, 0] = np.arange(200)  # survives in one of two places, whether flipped or not
    images.images[:, 1, 2, 0] = 255 - np.arange(200)
    plain = Loader(images, 200, "cpu", flip=False, seed=5)
    flipping = Loader(images, 200, "cpu", flip=True, seed=5)
    flipped_before, flips = None, 0
    for _ in range(20):
        expected, found = plain.next_batch()[0], flipping.next_batch()[0]  # flips leave the order alone
        same = (found == expected).flatten(1).all(1)
        mirrored = (found == expected.flip(3)).flatten(1).all(1)
        assert torch.equal(same, ~mirrored)
        assert flipped_before is None or not torch.equal(mirrored, flipped_before)
        flipped_before, flips = mirrored, flips + int(mirrored.sum())
    assert abs(flips - 2000) < 5 * 1000**0.5  # 4,000 draws: 5 standard deviations of √(n/4)


@pytest.mark.parametrize(
    ("source", "flip", "flips"),
    [
        ("cifar10", "null", True), ("digits", "null", False), ("svhn", "null", False), ("cifar10", "false", False),
        ("digits", "true", True),
    ],
)  # fmt: skip
def test_images_are_flipped_as_told_or_as_suits_their_source(source: str, flip: str, flips: bool) -> None:
    images = numbered_store()
    config = load_config(DEFAULT, [f"data.source={source}", f"data.flip={flip}", "training.batch_size=23"])
    batch, _ = build_loader(config, images, torch.device("cpu")).next_batch()
    stored = {image.tobytes() for image in images.images}
    found = to_uint8(batch).permute(0, 2, 3, 1)
    assert all(image.numpy().tobytes() in stored or image.flip(1).numpy().tobytes() in stored for image in found)
    assert any(image.numpy().tobytes() not in stored for image in found) == flips


def test_normalisation_is_exact() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_float(levels)
    assert floats[0] == -1
    assert floats[255] == 1
    assert torch.equal(floats, -floats.flip(0))
    assert torch.equal(to_uint8(floats), levels)
    assert to_uint8(torch.tensor([-3.0, -1.0, 0.0, 1.0, 7.0])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("resident", [True, False])
def test_memory_format(resident: bool) -> None:
    for channels_last in (True, False):
        loader = Loader(numbered_store(), 5, "cpu", flip=True, seed=0, resident=resident, channels_last=channels_last)
        images, _ = loader.next_batch()
        assert images.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert images.is_contiguous() != channels_last


def test_unlabelled_batches_have_no_labels() -> None:
    images = numbered_store(labelled=False)
    assert images.num_classes == 0
    assert Loader(images, 5, "cpu", flip=False, seed=0).next_batch()[1] is None
    assert real_batch(images, 5)[1] is None
    with pytest.raises(ValueError, match="24"):
        real_batch(images, 24)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("resident", [True, False])
def test_cuda_batches_equal_the_cpu_ones_and_wait_for_nothing(resident: bool) -> None:
    images = numbered_store(num_images=200, resolution=16)
    expected = Loader(images, 32, "cpu", flip=True, seed=5)
    found = Loader(images, 32, "cuda", flip=True, seed=5, resident=resident)
    batches = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [found.next_batch() for _ in range(20)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for images_on_device, labels_on_device in batches:
        expected_images, expected_labels = expected.next_batch()
        assert torch.equal(images_on_device.cpu(), expected_images)
        assert torch.equal(labels_on_device.cpu(), expected_labels)


def test_real_batch_is_fixed_and_even_over_classes() -> None:
    images = numbered_store()
    first, labels = real_batch(images, 10, seed=1)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert torch.equal(first, real_batch(images, 10, seed=1)[0])
    assert not torch.equal(first, real_batch(images, 10, seed=2)[0])
    which = to_uint8(first)[:, 0, 0, 0].long()
    assert len(set(which.tolist())) == 10
    assert torch.equal(which % 5, labels)
    assert real_batch(images, 2)[1].tolist() == [0, 2]  # fewer slots than classes: evenly spaced
    assert len(real_batch(images, 40)[0]) == 40  # more slots than images: they repeat


# digits


def test_digits_are_white_on_black_and_split_by_class(tmp_path: Path) -> None:
    train, test, both = (prepare("digits", split=split, root=tmp_path) for split in ("train", "test", "all"))
    assert (train.num_images, test.num_images, both.num_images) == (1437, 360, 1797)
    assert train.images.shape[1:] == (32, 32, 1)
    assert train.num_classes == 10
    for digit in range(10):
        assert abs((test.labels == digit).sum() - 0.2 * (both.labels == digit).sum()) < 1
    assert not np.array(both.images)[:, [0, -1]].any()  # no stroke is cut off
    assert 0.05 < (np.array(both.images) > 128).mean() < 0.3
    rows = [set(map(bytes, np.array(part.images).reshape(part.num_images, -1))) for part in (train, test)]
    assert not rows[0] & rows[1]
    assert len({train.content_hash, test.content_hash, both.content_hash}) == 3


def test_digits_keep_the_scans_brightness(tmp_path: Path) -> None:
    both = prepare("digits", split="all", root=tmp_path)
    scans = load_digits()
    assert np.array_equal(both.labels, scans.target)
    # a 10×10 frame around 8×8 pixels: the mean is 0.64 of the scan's, 16 → 255; clamping overshoot moves it a little
    expected = scans.images.mean((1, 2)) * (255 / 16) * 0.64
    assert np.abs(np.array(both.images).mean((1, 2, 3)) - expected).max() < 3


def test_stacked_digits_hold_the_digits_of_their_label(tmp_path: Path) -> None:
    base = prepare("digits", split="train", root=tmp_path)
    digit_of = {image.tobytes(): label for image, label in zip(base.images, base.labels, strict=True)}
    stacked = prepare("stacked_digits", split="train", root=tmp_path, count=2500)
    assert stacked.images.shape == (2500, 32, 32, 3)
    for image, label in zip(stacked.images, stacked.labels, strict=True):
        red, green, blue = (digit_of[np.ascontiguousarray(image[..., [channel]]).tobytes()] for channel in range(3))
        assert 100 * red + 10 * green + blue == label
    assert stacked.class_names[7] == "007"
    counts = np.bincount(stacked.labels, minlength=1000)
    assert set(counts) == {2, 3}
    assert not np.array_equal(stacked.labels, np.sort(stacked.labels))


def test_stacked_digits_cover_all_modes_equally_by_default(tmp_path: Path) -> None:
    stacked = prepare("stacked_digits", root=tmp_path, resolution=8)
    assert set(np.bincount(stacked.labels, minlength=1000)) == {25}
    assert len(set(map(bytes, np.array(stacked.images).reshape(25_000, -1)))) > 24_900  # ≈144³ stacks to choose from
    other = prepare("stacked_digits", root=tmp_path / "other", resolution=8)
    assert other.content_hash == stacked.content_hash
    refused("data.count", source="stacked_digits", root=tmp_path, count=0)


# npz


@pytest.mark.parametrize("keys", [("images", "labels"), ("arr_0", "arr_1")])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_npz_round_trip(tmp_path: Path, keys: tuple[str, str], channels: tuple[int, ...]) -> None:
    images, labels = random_images(11, 8, 8, *channels), np.arange(11, dtype=np.uint8) % 3
    path = save_npz(tmp_path / "a.npz", **{keys[0]: images, keys[1]: labels})
    found = prepare("npz", split="val-1", path=path, root=tmp_path, resolution=8)
    assert np.array_equal(found.images, images.reshape(11, 8, 8, -1))
    assert found.labels.dtype == np.int64
    assert np.array_equal(found.labels, labels)
    assert (found.num_classes, found.class_names, found.split) == (3, ("0", "1", "2"), "val-1")


def test_npz_without_labels_and_resized(tmp_path: Path) -> None:
    images = random_images(5, 12, 20, 3)
    found = prepare("npz", path=save_npz(tmp_path / "a.npz", images=images), root=tmp_path, resolution=6)
    assert (found.num_classes, found.has_labels, found.labels) == (0, False, None)
    for image, original in zip(found.images, images, strict=True):
        reference = Image.fromarray(original).resize((10, 6), Image.Resampling.BICUBIC).crop((2, 0, 8, 6))
        assert np.array_equal(image, reference)


GOOD = random_images(4, 8, 8, 3)


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"images": np.array([GOOD, None], dtype=object)}, ["'images'", "allow_pickle=False"]),
        ({"images": GOOD.astype(np.float32)}, ["'images'", "float32", "uint8"]),
        ({"images": GOOD.transpose(0, 3, 1, 2)}, ["'images'", "(4, 3, 8, 8)", "(N, H, W, 3)"]),
        ({"images": GOOD[:0]}, ["'images'", "(0, 8, 8, 3)"]),
        ({"arr_0": GOOD[0, 0]}, ["'arr_0'", "(8, 3)"]),
        ({"pictures": GOOD}, ["pictures", "images or arr_0"]),
        ({"images": GOOD, "labels": np.array([0, 1, -1, 2])}, ["'labels'", "-1 to 2"]),
        ({"images": GOOD, "labels": np.array([0, 1, 2**63, 2], dtype=np.uint64)}, ["'labels'", str(2**63)]),
        ({"images": GOOD, "labels": np.array([0, 1, 2])}, ["'labels'", "(3,)", "(4,)"]),
        ({"images": GOOD, "labels": np.array([[0], [1], [2], [3]])}, ["'labels'", "(4, 1)"]),
        ({"images": GOOD, "labels": np.array([0.0, 1, 2, 3])}, ["'labels'", "float64"]),
        ({"images": GOOD, "labels": np.array(list("abcd"), dtype=object)}, ["'labels'", "allow_pickle=False"]),
    ],
)
def test_unusable_npz_arrays_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], parts: list[str]) -> None:
    path = save_npz(tmp_path / "bad.npz", **arrays)
    refused("data.path", "bad.npz", "accepted", *parts, source="npz", root=tmp_path / "root", path=path)
    assert not list((tmp_path / "root").glob("npz-*"))
    assert not list((tmp_path / "root").glob(".npz-*"))


def test_npz_names_its_classes(tmp_path: Path) -> None:
    labels = np.array([2, 0, 1, 1])
    names = ["été", "cat", "a long name"]
    path = save_npz(tmp_path / "a.npz", images=random_images(4, 8, 8, 3), labels=labels, class_names=np.array(names))
    found = prepare("npz", path=path, root=tmp_path, resolution=8)
    assert found.class_names == tuple(names) and found.labels.tolist() == [2, 0, 1, 1]


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (np.array(["a", "b"]), ["(2,)", "text (3,)"]),
        (np.array([["a", "b", "c"]]), ["(1, 3)"]),
        (np.arange(3), ["int64"]),
        (np.array([b"a", b"b", b"c"]), ["|S1"]),
        (np.array(["a", "b", "a"]), ["'a' is there twice"]),
        (np.array(["a", "b", "c\n"]), ["printable"]),
        (np.array(["a", "b", " "]), ["printable"]),
        (np.array(["a", "b", None], dtype=object), ["class_names"]),
    ],
)
def test_unusable_class_names_are_refused(tmp_path: Path, names: np.ndarray, parts: list[str]) -> None:
    path = save_npz(tmp_path / "bad.npz", images=random_images(3, 4, 4, 3), labels=np.arange(3), class_names=names)
    refused("data.path", "'class_names'", "accepted", *parts, source="npz", root=tmp_path / "root", path=path)


def test_the_last_classes_may_have_no_image(tmp_path: Path) -> None:
    names = np.array(["a", "b", "c", "d"])
    path = save_npz(tmp_path / "x.npz", images=random_images(3, 4, 4, 3), labels=np.arange(3), class_names=names)
    assert prepare("npz", resolution=4, path=path, root=tmp_path / "root").class_names == ("a", "b", "c", "d")


def test_class_names_need_labels(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "bad.npz", images=random_images(3, 4, 4, 3), class_names=np.array(["a"]))
    refused("only with labels", source="npz", root=tmp_path / "root", path=path)


def test_damaged_npz_is_named(tmp_path: Path) -> None:
    whole = save_npz(tmp_path / "whole.npz", images=GOOD).read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    refused("data.path", "short.npz", source="npz", root=tmp_path, path=tmp_path / "short.npz")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(damaged)
    refused("data.path", "flipped.npz", "damaged", source="npz", root=tmp_path, path=tmp_path / "flipped.npz")
    np.save(tmp_path / "plain.npy", GOOD)
    refused("data.path", "plain.npy", source="npz", root=tmp_path, path=tmp_path / "plain.npy")


def test_cifar10_from_npz(tmp_path: Path) -> None:
    path = needs_shared("cifar10_test.npz")
    found = prepare("npz", split="test", path=path, root=tmp_path)
    with np.load(path) as archive:
        assert np.array_equal(found.images, archive["images"])
        assert np.array_equal(found.labels, archive["labels"])
    assert (found.num_images, found.num_classes, found.resolution, found.channels) == (10_000, 10, 32, 3)


# image folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Classes bird (2), cat (3), dog (4) of 20×10 PNG files, and things that are no images."""
    top = tmp_path / "folder"
    for seed, (name, count) in enumerate({"dog": 4, "bird": 2, "cat": 3}.items()):
        (top / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(random_images(10, 20, 3, seed=10 * seed + index)).save(top / name / f"{index}.png")
    (top / ".hidden").mkdir()
    (top / "dog" / ".hidden.png").write_bytes(b"not an image")
    (top / "dog" / "notes.txt").write_text("not an image")
    (top / "classes.txt").write_text("not an image")
    return top


def test_image_folder_is_sorted_cropped_and_labelled(tmp_path: Path, folder: Path) -> None:
    found = prepare("image_folder", split="val", path=folder, root=tmp_path, resolution=10)
    assert found.class_names == ("bird", "cat", "dog")
    assert found.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    files = sorted(folder.glob("[a-z]*/[0-9].png"))
    for image, file in zip(found.images, files, strict=True):
        assert np.array_equal(image, np.array(Image.open(file))[:, 5:15])  # fits without resizing: only cropped


@pytest.mark.parametrize(("width", "height"), [(33, 20), (20, 33), (17, 17), (8, 8), (5, 9), (300, 9)])
def test_short_side_is_resized_and_the_centre_cropped(width: int, height: int) -> None:
    original = Image.fromarray(random_images(height, width, 3))
    short = min(width, height)
    wide, high = round(width * 8 / short), round(height * 8 / short)
    reference = original.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - 8) // 2, (high - 8) // 2
    assert np.array_equal(square(original, 8), reference.crop((left, top, left + 8, top + 8)))


def test_image_folder_subsets(tmp_path: Path, folder: Path) -> None:
    def read(**options: object) -> ImageStore:
        return prepare("image_folder", path=folder, root=tmp_path, resolution=10, **options)

    assert read(classes=2).class_names == ("bird", "cat")
    named = read(classes=["dog", "bird"])
    assert named.class_names == ("bird", "dog")
    assert named.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert np.array_equal(named.images, read(classes=["bird", "dog"]).images)
    few = read(images_per_class=2)
    assert few.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(few.images, np.array(read().images)[[0, 1, 2, 3, 5, 6]])


def test_image_folder_refuses_by_name(tmp_path: Path, folder: Path) -> None:
    def fails(*parts: str, **options: object) -> None:
        refused(*parts, source="image_folder", root=tmp_path / "root", **{"path": folder, "resolution": 8, **options})

    fails("data.classes", "'cot'", "did you mean 'cat'", classes=["cot"])
    fails("data.classes", "4", "1 to 3", classes=4)
    fails("data.classes", "twice", classes=["cat", "cat"])
    fails("data.classes", "accepted", classes=[])
    fails("data.images_per_class", "bird", "2", images_per_class=3)
    fails("data.images_per_class", "0", images_per_class=0)
    fails("data.path", "nowhere", path=tmp_path / "nowhere")
    fails("data.path", "not a folder", path=folder / "classes.txt")
    (folder / "empty").mkdir()
    fails("data.path", "empty", "no images")
    Image.new("RGB", (4, 4)).save(folder / "loose.png")
    fails("data.path", "loose.png", "both")
    (tmp_path / "nothing").mkdir()
    fails("data.path", "nothing", "no images", path=tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["truncated", "nonsense"])
def test_corrupt_file_is_named(tmp_path: Path, folder: Path, damage: str) -> None:
    file = folder / "cat" / "1.png"
    file.write_bytes(file.read_bytes()[:200] if damage == "truncated" else b"GIF89a nonsense")
    refused("data.path", str(file), source="image_folder", root=tmp_path / "root", path=folder)
    assert not [name for name in (tmp_path / "root").iterdir() if name.is_dir()]


def test_corrupt_files_are_left_out_named_and_counted(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cat" / "1.png").write_bytes(b"nonsense")
    (folder / "dog" / "0.png").write_bytes((folder / "dog" / "0.png").read_bytes()[:200])
    names = ["cat/1.png", "dog/0.png"]
    root, options = tmp_path / "root", {"source": "image_folder", "path": folder, "resolution": 10}
    refused("data.path", "cat/1.png", "data.skip_corrupt=true", root=root, **options)
    for _ in range(2):  # the second time from the cache
        capsys.readouterr()
        say_once.cache_clear()
        found = prepare(root=root, skip_corrupt=True, **options)
        prepare(root=root, skip_corrupt=True, **options)  # as a run does, that opens its images twice
        assert list(found.skipped) == names and "no image" in found.skipped["cat/1.png"]
        assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 2]
        told = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
        assert len(told) == 1 and "2 corrupt images left out" in told[0] and all(name in told[0] for name in names)
    (directory,) = root.glob("image_folder-*")
    assert list(json.loads((directory / "meta.json").read_text())["skipped"]) == names
    for name in names:
        (folder / name).unlink()
    without = prepare(root=root, **options)
    assert without.content_hash == found.content_hash and not without.skipped
    assert prepare(root=root, skip_corrupt=True, **options).content_hash == without.content_hash
    assert len(list(root.glob("image_folder-*"))) == 3  # with the option and without are never mixed up


@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_a_want_of_memory_is_no_damage(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, skip_corrupt: bool
) -> None:
    def no_room(file: Path) -> Image.Image:
        raise MemoryError

    options = {"path": folder, "root": tmp_path / "root", "skip_corrupt": skip_corrupt}
    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "decode_rgb", no_room)
        with pytest.raises(MemoryError):
            prepare("image_folder", **options)
    found = prepare("image_folder", **options)
    assert (found.num_images, found.skipped) == (9, {})


def test_bytes_that_are_no_text_are_taken_into_digests_and_other_names_keep_theirs(tmp_path: Path) -> None:
    """A name of a file is any bytes; what prepared images and random choices are known by must not change."""
    for name, content in ((b"1.png", b"0/images/1.png"), (b"caf\xe9.png", b"0/images/caf\xe9.png")):
        file = tmp_path / "cat" / os.fsdecode(name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"abc")
        os.utime(file, ns=(0, 1_000_000_000))
        expected = hashlib.sha256(b"cat/" + name + b"\x003\x001000000000\n").hexdigest()
        assert image_folder._fingerprint([file]) == expected
        assert derive_seed(0, "images", file.name) == int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
    assert derive_seed(0, "images", "é") == 1807749445887969208


def test_a_class_or_a_folder_without_a_whole_image_is_refused(tmp_path: Path, folder: Path) -> None:
    options = {"source": "image_folder", "root": tmp_path / "root", "path": folder, "skip_corrupt": True}
    for file in (folder / "cat").iterdir():
        file.write_bytes(b"")
    refused("no image of the class cat that can be read", **options)
    for file in folder.glob("[a-z]*/*.png"):
        file.write_bytes(b"")
    refused("has 9 images, none of which can be read", **options)
    refused("data.skip_corrupt", "digits does not take it", source="digits", root=tmp_path, skip_corrupt=True)


def test_what_is_no_image_is_counted_in_one_line(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cat" / "raw.heic").write_bytes(b"")
    (folder / "cat" / "README").write_text("not an image")
    (folder / "bird" / "more").mkdir()
    prepare("image_folder", path=folder, root=tmp_path, resolution=8)
    (line,) = capsys.readouterr().err.splitlines()
    counted = "2 .txt, 1 .heic, 1 folder inside a class, 1 hidden, 1 without an extension"
    assert line == f"data.path: {folder}: 6 entries passed over as no images: {counted}"


def test_of_a_gif_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (60, 200)]
    (tmp_path / "films").mkdir()
    frames[0].save(tmp_path / "films" / "a.GIF", "GIF", save_all=True, append_images=frames[1:])
    assert ".gif" in SUFFIXES
    found = prepare("image_folder", path=tmp_path / "films", root=tmp_path, resolution=8)
    assert found.images.shape == (1, 8, 8, 3) and (np.array(found.images) == 60).all()


def test_what_a_download_needs_is_named_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    class CelebA:
        def __init__(self, root: Path, split: str, download: bool) -> None:
            asked.append(download)
            raise RuntimeError("Dataset not found or corrupted.")

    monkeypatch.setattr(torchvision.datasets, "CelebA", CelebA)
    for found, told in (
        (None, "needs the package gdown, which is not installed: pip install gdown"),
        (object(), "not found"),
    ):
        monkeypatch.setattr(torchvision_sets, "find_spec", lambda name, found=found: found)
        refused("data.source", told, str(tmp_path / "torchvision"), source="celeba", root=tmp_path)
    assert asked == [False, True]


def test_flat_folder_is_unlabelled(tmp_path: Path, folder: Path) -> None:
    found = prepare("image_folder", path=folder / "dog", root=tmp_path, resolution=10)
    assert (found.num_images, found.labels, found.class_names) == (4, None, ())
    for option in ("classes", "images_per_class"):
        refused(f"data.{option}", source="image_folder", root=tmp_path, path=folder / "dog", **{option: 1})


def test_all_colour_modes_become_rgb(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = np.repeat(ramp[..., None], 3, axis=2)

    def decoded(image: Image.Image, name: str) -> np.ndarray:
        image.save(tmp_path / name)
        result = read_rgb(tmp_path / name)
        assert result.mode == "RGB"
        return np.array(result)

    assert np.array_equal(decoded(Image.fromarray(ramp), "grey.png"), grey)
    sixteen = Image.fromarray(ramp.astype(np.uint16) * 257)
    assert np.array_equal(decoded(sixteen, "sixteen.png"), grey)
    assert np.array_equal(decoded(sixteen, "sixteen.tif"), grey)
    assert np.array_equal(decoded(Image.fromarray(ramp > 127), "bits.png"), np.where(grey > 127, 255, 0))
    assert np.array_equal(decoded(Image.fromarray(ramp).convert("P"), "palette.png"), grey)
    cmyk = np.stack([np.zeros_like(ramp)] * 3 + [255 - ramp], axis=2)  # black ink alone
    assert np.array_equal(decoded(Image.fromarray(cmyk, mode="CMYK"), "ink.tif"), grey)
    alpha = np.dstack([np.zeros((16, 16, 3), np.uint8), 255 - ramp])  # black under the paper shows by its alpha
    assert np.array_equal(decoded(Image.fromarray(alpha), "alpha.png"), grey)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif.*range"):
        read_rgb(tmp_path / "float.tif")


def test_threads_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(70, 9, 9, 3)
    path = save_npz(tmp_path / "a.npz", images=images)
    monkeypatch.setattr("gan.data.recipe.BLOCK", 16)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    parallel = prepare("npz", path=path, root=tmp_path / "8", resolution=5)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert prepare("npz", path=path, root=tmp_path / "1", resolution=5).content_hash == parallel.content_hash
    for image, original in zip(parallel.images, images, strict=True):
        assert np.array_equal(image, Image.fromarray(original).resize((5, 5), Image.Resampling.BICUBIC))


def test_progress_is_shown_for_many_images_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_npz(tmp_path / "many.npz", images=random_images(2001, 3, 3))
    prepare("npz", path=path, root=tmp_path, resolution=2)
    output = capsys.readouterr()
    assert "2001/2001" in output.err
    assert output.out == ""


def test_tiny_imagenet_folder(tmp_path: Path) -> None:
    path = needs_shared("tiny_imagenet_20") / "val"
    found = prepare("image_folder", split="val", path=path, root=tmp_path, resolution=64, images_per_class=5)
    assert found.images.shape == (100, 64, 64, 3)
    assert found.num_classes == 20
    first = sorted((path / found.class_names[0]).iterdir())[0]
    assert np.array_equal(found.images[0], Image.open(first).convert("RGB"))


# torchvision


SPLITS = ("train", "test", "extra", "unlabeled", "valid", "all")
NAMES = tuple("abcdefghij")


def as_rows(images: np.ndarray, labels: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(data=images.transpose(0, 2, 3, 1), targets=labels.tolist(), classes=NAMES)


def as_grey_tensors(images: np.ndarray, labels: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(data=torch.from_numpy(images[:, 0]), targets=torch.from_numpy(labels), classes=NAMES)


def as_planes(images: np.ndarray, labels: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(data=images, labels=labels, classes=NAMES)


def as_pictures(images: np.ndarray, labels: np.ndarray) -> list[tuple[Image.Image, int]]:
    pictures = [Image.fromarray(image) for image in images.transpose(0, 2, 3, 1)]
    return list(zip(pictures, labels.tolist(), strict=True))


LAYOUTS: dict[str, tuple[str, int, Callable[[np.ndarray, np.ndarray], object]]] = {
    # source → torchvision's name of it, channels, and how its class holds images (N, C, H, W) and labels
    "cifar10": ("CIFAR10", 3, as_rows),
    "cifar100": ("CIFAR100", 3, as_rows),
    "mnist": ("MNIST", 1, as_grey_tensors),
    "fashion_mnist": ("FashionMNIST", 1, as_grey_tensors),
    "kmnist": ("KMNIST", 1, as_grey_tensors),
    "svhn": ("SVHN", 3, as_planes),
    "stl10": ("STL10", 3, as_planes),
    "celeba": ("CelebA", 3, as_pictures),
}


def known_images(split: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (3, C, 8, 8) that tell splits, images, channels, rows and columns apart; labels (3,), −1 if unlabeled."""
    n, c, y, x = np.indices((3, channels, 8, 8))
    pixels = (41 * SPLITS.index(split) + 5 * n + 64 * c + 8 * y + x) % 256
    labels = np.full(3, -1) if split == "unlabeled" else np.arange(3) + SPLITS.index(split)
    return pixels.astype(np.uint8), labels.astype(np.int64)


@pytest.mark.parametrize(
    ("source", "split"), [(source, split) for source in LAYOUTS for split in source_info(source).splits]
)
def test_torchvisions_sets_are_read_pixel_by_pixel_from_the_split_asked_for(
    source: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, channels, layout = LAYOUTS[source]

    def open_set(root: Path, *, download: bool, split: str | None = None, train: bool = False) -> object:
        return layout(*known_images(split or ("train" if train else "test"), channels))

    for name, _, _ in LAYOUTS.values():  # another set than the one that is meant cannot be had
        monkeypatch.setattr(torchvision.datasets, name, open_set if name == dataset else None)
    found = prepare(source, split=split, root=tmp_path, resolution=8)
    pixels, labels = known_images(split, channels)
    assert found.images.shape == (3, 8, 8, channels)
    assert all(found.images[n, y, x, c] == pixels[n, c, y, x] for n, c, y, x in np.ndindex(pixels.shape))
    if source == "celeba" or split == "unlabeled":
        assert (found.labels, found.class_names) == (None, ())
    else:
        assert found.labels is not None and found.labels.tolist() == labels.tolist()
        assert found.class_names == (tuple("0123456789") if source == "svhn" else NAMES)


class FakeCIFAR:
    data = random_images(6, 32, 32, 3)
    targets: ClassVar = [0, 1, 2, 0, 1, 2]
    classes: ClassVar = ["plane", "car", "bird"]

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        assert root.is_dir()
        assert download
        print("Files already downloaded")


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.tobytes())


@pytest.fixture
def mnist_files(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """Seven random test images in torchvision's layout, the first four of which are the training images."""
    raw = tmp_path / "sets" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = random_images(7, 28, 28), np.array([3, 1, 4, 1, 5, 9, 2], dtype=np.uint8)
    for part, count in (("train", 4), ("t10k", 7)):
        write_idx(raw / f"{part}-images-idx3-ubyte", images[:count])
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels[:count])
    return tmp_path / "sets", images, labels


def test_cifar_keeps_pixels_and_class_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR)
    content = torchvision_sets.cifar(dataset="CIFAR10", split="test", resolution=32, root=tmp_path / "new").read()
    assert np.array_equal(np.concatenate(list(content.blocks)), FakeCIFAR.data)
    assert content.labels.tolist() == FakeCIFAR.targets
    assert content.class_names == ("plane", "car", "bird")
    assert capsys.readouterr().out == ""


def test_mnist_has_a_black_margin_up_to_32(tmp_path: Path, mnist_files: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, images, labels = mnist_files
    found = prepare("mnist", split="test", path=path, root=tmp_path)
    assert found.images.shape == (7, 32, 32, 1)
    assert np.array_equal(found.images[:, 2:30, 2:30, 0], images)
    assert np.array(found.images).sum() == images.sum()
    assert np.array_equal(found.labels, labels)
    assert found.class_names[3] == "3 - three"
    for split, count in (("test", 7), ("train", 4)):
        native = prepare("mnist", split=split, path=path, root=tmp_path, resolution=28)
        assert np.array_equal(native.images[..., 0], images[:count])
    large = prepare("mnist", split="test", path=path, root=tmp_path, resolution=64)
    assert np.array_equal(
        large.images[0, ..., 0], Image.fromarray(images[0]).resize((64, 64), Image.Resampling.BICUBIC)
    )


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("Error\nTried x"), ImportError("gdown")])
def test_failed_download_names_two_ways_out(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    for name, dataset in (("svhn", "SVHN"), ("stl10", "STL10"), ("celeba", "CelebA")):
        monkeypatch.setattr(torchvision.datasets, dataset, fail)
        ways_out = ("data.source=npz data.path=FILE", str(tmp_path / "torchvision"))
        refused("data.source", *ways_out, source=name, root=tmp_path)


@pytest.mark.parametrize("splits", [{"train": "."}, {"test": "cat", "train": "dog"}, {"train": "dog", "val": "."}])
def test_folders_of_splits_are_not_taken_for_classes(tmp_path: Path, folder: Path, splits: dict[str, str]) -> None:
    path = tmp_path / "both"
    for split, inside in splits.items():  # classes, or images without them
        shutil.copytree(folder / inside, path / split)
    hint = f"did you mean {path / 'train'}?"
    refused("data.path", "splits, not classes", hint, source="image_folder", root=tmp_path, path=path)
    assert prepare("image_folder", path=path / "train", root=tmp_path / "root", resolution=8).num_images > 0


def test_a_class_may_be_named_as_a_split(tmp_path: Path, folder: Path) -> None:
    (folder / "dog").rename(folder / "train")
    assert prepare("image_folder", path=folder, root=tmp_path, resolution=8).class_names == ("bird", "cat", "train")


def test_lsun_needs_its_databases(tmp_path: Path) -> None:
    refused("data.path", source="lsun", root=tmp_path)
    refused("data.path", "_train_lmdb", source="lsun", root=tmp_path, path=tmp_path)
    (tmp_path / "bedroom_train_lmdb").mkdir()
    (tmp_path / "bedroom_train_lmdb" / "data.mdb").touch()
    refused("data.classes", "'bedrom'", "'bedroom'", source="lsun", root=tmp_path, path=tmp_path, classes=["bedrom"])


def test_lsun_is_opened_from_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeLSUN(list):
        def __init__(self, root: str, classes: list[str]) -> None:
            self.dbs = [[Image.new("RGB", (9, 8), (index, 0, 0))] * (index + 1) for index in range(len(classes))]
            assert all((Path(root) / f"{name}_lmdb").is_dir() for name in classes)
            assert not list(Path.cwd().iterdir())  # where torchvision would leave its list of keys
            super().__init__((image, 0) for database in self.dbs for image in database)

    for name in ("tower", "bedroom"):
        (tmp_path / f"{name}_val_lmdb").mkdir()
        (tmp_path / f"{name}_val_lmdb" / "data.mdb").touch()
    monkeypatch.setattr(torchvision.datasets, "LSUN", FakeLSUN)
    monkeypatch.chdir(tmp_path)
    found = prepare("lsun", split="val", path=".", root="root", resolution=8)
    assert found.class_names == ("bedroom", "tower")
    assert found.labels.tolist() == found.images[:, 0, 0, 0].tolist() == [0, 1, 1]


# store


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return save_npz(tmp_path / "a.npz", images=random_images(9, 8, 8, 3), labels=np.arange(9) % 3)


def prepared_directory(root: Path) -> Path:
    (directory,) = root.glob("npz-*")
    return directory


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one entry whenever a prepared directory is written."""
    reads: list[str] = []
    write = store._write

    def counted(*arguments: object) -> None:
        reads.append("write")
        write(*arguments)

    monkeypatch.setattr(store, "_write", counted)
    return reads


def test_second_prepare_reads_what_the_first_wrote(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    root = tmp_path / "root"
    first = prepare("npz", path=archive, root=root, resolution=8)
    second = prepare("npz", path=archive, root=root, resolution=8)
    assert len(reads) == 1
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.labels, second.labels)
    assert first.content_hash == second.content_hash
    assert sorted(file.name for file in prepared_directory(root).iterdir()) == ["images.npy", "labels.npy", "meta.json"]
    prepare("npz", path=archive, root=root, resolution=4)
    prepare("npz", path=archive, root=root, resolution=8, split="test")
    assert len(reads) == 3


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images.npy", lambda file: file.write_bytes(file.read_bytes()[:-1])),
        ("images.npy", lambda file: file.write_bytes(b"")),
        ("images.npy", lambda file: file.unlink()),
        ("labels.npy", lambda file: file.write_bytes(file.read_bytes()[:-8])),
        ("labels.npy", lambda file: file.unlink()),
        ("meta.json", lambda file: file.unlink()),
        ("meta.json", lambda file: file.write_text("{")),
        ("meta.json", lambda file: file.write_text("[]")),
        ("meta.json", lambda file: file.write_text(file.read_text().replace('"format": 1', '"format": 0'))),
        ("meta.json", lambda file: file.write_text(file.read_text().replace("content_hash", "content"))),
    ],
)
def test_damage_is_repaired(tmp_path: Path, archive: Path, name: str, damage, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "root"
    first = prepare("npz", path=archive, root=root, resolution=8)
    expected = np.array(first.images)
    damage(prepared_directory(root) / name)
    reads = count_reads(monkeypatch)
    again = prepare("npz", path=archive, root=root, resolution=8)
    assert len(reads) == 1
    assert np.array_equal(again.images, expected)
    assert again.content_hash == first.content_hash
    assert [file.name for file in root.iterdir() if file.is_dir()] == [prepared_directory(root).name]


def test_changed_file_gives_new_key_and_hash(tmp_path: Path, archive: Path, folder: Path) -> None:
    root = tmp_path / "root"
    first = prepare("npz", path=archive, root=root, resolution=8)
    save_npz(archive, images=random_images(9, 8, 8, 3, seed=1), labels=np.arange(9) % 3)
    second = prepare("npz", path=archive, root=root, resolution=8)
    assert len(list(root.glob("npz-*"))) == 2
    assert first.content_hash != second.content_hash
    before = prepare("image_folder", path=folder, root=root)
    Image.fromarray(random_images(10, 20, 3, seed=99)).save(folder / "dog" / "0.png")
    after = prepare("image_folder", path=folder, root=root)
    assert len(list(root.glob("image_folder-*"))) == 2
    assert before.content_hash != after.content_hash


def test_hash_follows_pixels_labels_and_shape_only(tmp_path: Path) -> None:
    images, labels = random_images(6, 8, 8, 3), np.arange(6) % 3

    def hash_of(name: str, **arrays: np.ndarray) -> str:
        path = save_npz(tmp_path / f"{name}.npz", **arrays)
        return prepare("npz", path=path, root=tmp_path / name, resolution=8).content_hash

    original = hash_of("original", images=images, labels=labels)
    assert hash_of("renamed", arr_0=images, arr_1=labels) == original
    assert hash_of("labels", images=images, labels=labels[::-1]) != original
    assert hash_of("unlabelled", images=images) != original
    touched = images.copy()
    touched[5, 7, 7, 2] ^= 1
    assert hash_of("touched", images=touched, labels=labels) != original


def test_an_archive_is_known_wherever_it_lies(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare("npz", path=archive, root=tmp_path / "root", resolution=8)
    reads = count_reads(monkeypatch)
    shutil.copyfile(archive, tmp_path / "moved.npz")
    prepare("npz", path=tmp_path / "moved.npz", root=tmp_path / "root", resolution=8)
    assert not reads


def test_many_at_once_prepare_once(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    with ThreadPoolExecutor(6) as threads:
        jobs = [threads.submit(prepare, "npz", path=archive, root=tmp_path / "root", resolution=8) for _ in range(6)]
    assert len({job.result().content_hash for job in jobs}) == 1
    assert len(reads) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_many_at_once_without_locks_are_safe(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with ThreadPoolExecutor(6) as threads:
        jobs = [threads.submit(prepare, "npz", path=archive, root=tmp_path / "root", resolution=8) for _ in range(6)]
    assert len({job.result().content_hash for job in jobs}) == 1
    assert [file.name for file in (tmp_path / "root").iterdir() if file.is_dir()] == [
        prepared_directory(tmp_path / "root").name
    ]


def test_leftovers_of_a_killed_preparation_are_swept(tmp_path: Path, archive: Path) -> None:
    root = tmp_path / "root"
    prepare("npz", path=archive, root=root, resolution=8)
    directory = prepared_directory(root)
    directory.rename(root / f".{directory.name}.dead.tmp")
    prepare("npz", path=archive, root=root, resolution=8)
    assert not list(root.glob(".npz-*"))


def test_unwritable_root_is_a_storage_error(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        prepare("npz", path=archive, root=tmp_path / "file" / "root")


def test_a_failed_recipe_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(**_: object) -> Recipe:
        content = SOURCES["npz"].recipe(split="a", resolution=8, path=save_npz(tmp_path / "a.npz", images=GOOD)).read()
        content.blocks.__next__()
        return Recipe("lying", lambda: content)

    monkeypatch.setitem(SOURCES, "digits", type(SOURCES["digits"])(SOURCES["digits"].info, lying))
    with pytest.raises(ValueError, match="0 images were read where 4"):
        prepare("digits", root=tmp_path / "root")
    assert not [file for file in (tmp_path / "root").iterdir() if file.is_dir()]


# options


def test_options_are_refused_by_name(tmp_path: Path, archive: Path) -> None:
    refused("data.source", "'cifar_10'", "did you mean 'cifar10'", source="cifar_10", root=tmp_path)
    refused("data.classes", "cifar10", source="cifar10", root=tmp_path, classes=3)
    refused("data.count", "npz", "accepted: data.path", source="npz", root=tmp_path, path=archive, count=3)
    refused("data.path", "digits", "accepted: none", source="digits", root=tmp_path, path=archive)
    refused("data.path", "npz", "needs", source="npz", root=tmp_path)
    refused("data.path", "nowhere.npz", source="npz", root=tmp_path, path=tmp_path / "nowhere.npz")
    refused("data.split", "'val'", "test, train", source="cifar10", root=tmp_path, split="val")
    refused("data.split", "'../up'", source="npz", root=tmp_path, path=archive, split="../up")
    refused("data.resolution", "0", source="digits", root=tmp_path, resolution=0)


def test_facts_agree_with_what_is_read(tmp_path: Path) -> None:
    for name in ("digits", "stacked_digits"):
        info, found = source_info(name), prepare(name, root=tmp_path, resolution=8)
        assert (found.channels, found.has_labels, found.num_classes) == (info.channels, True, info.num_classes)
        assert not info.flip_sensible
    for name in SOURCES:
        info = source_info(name)
        assert set(info.options) <= {"path", "classes", "images_per_class", "count", "skip_corrupt"}
        assert set(info.required) <= set(info.options)
        assert info.reference_split in (info.splits or ("train",))
    assert source_info("cifar10").reference_split == "test"
    assert source_info("image_folder").reference_split == "train"
    assert [name for name in SOURCES if not source_info(name).flip_sensible] == [
        "digits",
        "stacked_digits",
        "mnist",
        "stacked_mnist",
        "kmnist",
        "svhn",
    ]
    with pytest.raises(UserError, match=r"data\.source"):
        source_info("imagenet")
