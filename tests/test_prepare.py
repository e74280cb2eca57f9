"""Preparation against the image folder source, other readers of archives, and itself when it is disturbed."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from gan.config import DataConfig
from gan.data.__main__ import main
from gan.data.loader import Loader
from gan.data.preparation import Prepared, Selection, decoding, prepare_directory, preparing, verify, writing
from gan.data.preparation.inputs import FolderInput, _expand
from gan.data.preparation.listing import Listing, Place
from gan.data.preparation.tars import TarInput
from gan.data.preparation.zips import ZipInput
from gan.data.store import ImageStore, prepare
from gan.errors import StorageError, UserError
from gan.files import locked
from gan.scoring.reference_images import reference_images
from tests import ROOT, SHARED_DATA


def pixels(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Classes bird, cat and dog of 4, 5 and 6 images in every mode and several shapes."""
    top = tmp_path / "animals"
    made = {
        "grey.png": Image.fromarray(pixels(20, 31, seed=0)),
        "ink.jpg": Image.fromarray(pixels(18, 18, 4, seed=1), mode="CMYK"),
        "alpha.png": Image.fromarray(pixels(33, 16, 4, seed=2)),
        "palette.png": Image.fromarray(pixels(16, 16, seed=3)).convert("P"),
        "sixteen.png": Image.fromarray(pixels(16, 40, seed=4).astype(np.uint16) * 257),
        "small.bmp": Image.fromarray(pixels(5, 9, 3, seed=5)),
        "é large.webp": Image.fromarray(pixels(60, 47, 3, seed=6)),
    }
    for name, count in {"dog": 6, "bird": 4, "cat": 5}.items():
        (top / name).mkdir(parents=True)
        for file in list(made)[-count:]:
            made[file].save(top / name / file)
    (top / "dog" / ".hidden.png").write_bytes(b"hidden")
    (top / "dog" / "notes.txt").write_text("no image")
    (top / "classes.txt").write_text("no image")
    return top


def reference(path: Path, root: Path, resolution: int = 16, **options: object) -> ImageStore:
    return prepare("image_folder", path=path, root=root, resolution=resolution, **options)


def whole(prepared: Prepared) -> ImageStore:
    assert list(prepared.stores) == [""]
    return prepared.stores[""]


def tar_of(folder: Path, path: Path, mode: str = "w", inside: str = "") -> Path:
    files = sorted(folder.rglob("*"))
    random.Random(0).shuffle(files)  # archives are in no order
    with tarfile.open(path, mode) as archive:
        for file in files:
            archive.add(file, f"{inside}{file.relative_to(folder)}", recursive=False)
    return path


def zip_of(folder: Path, path: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, f"set/{file.relative_to(folder)}")
    return path


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(*parts: str, status: int = 2, **options: object) -> None:
    with pytest.raises(UserError) as caught:
        prepare_directory(**{"resolution": 16, "processes": 1, **options})
    assert caught.value.exit_status == status
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value), caught.value


# the same images as the image folder source


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tar.xz", "zip", "stored zip"])
def test_pixels_labels_and_order_are_those_of_an_image_folder(tmp_path: Path, folder: Path, kind: str) -> None:
    source = {
        "folder": lambda: folder,
        "tar": lambda: tar_of(folder, tmp_path / "a.tar"),
        "tar.gz": lambda: tar_of(folder, tmp_path / "a.tar.gz", "w:gz", inside="./"),
        "tar.xz": lambda: tar_of(folder, tmp_path / "a.tar.xz", "w:xz", inside="a/b/"),
        "zip": lambda: zip_of(folder, tmp_path / "a.zip"),
        "stored zip": lambda: zip_of(folder, tmp_path / "a.zip", zipfile.ZIP_STORED),
    }[kind]()
    store = whole(prepare_directory(source, tmp_path / "out", resolution=16, processes=2))
    expected = reference(folder, tmp_path / "root")
    assert np.array_equal(store.images, expected.images)
    assert np.array_equal(store.labels, expected.labels)
    assert (store.class_names, store.content_hash) == (expected.class_names, expected.content_hash)
    listed = [json.loads(line)["file"] for line in (tmp_path / "out" / "files.jsonl").read_text().splitlines()]
    prefix = {"tar.xz": "a/b/", "zip": "set/", "stored zip": "set/"}.get(kind, "")
    files = [file for file in sorted(folder.glob("*/*")) if file.suffix != ".txt" and not file.name.startswith(".")]
    assert listed == [f"{prefix}{file.relative_to(folder)}" for file in files]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_images_without_classes(tmp_path: Path, folder: Path) -> None:
    store = whole(prepare_directory(folder / "dog", tmp_path / "out", resolution=16, processes=1))
    assert store.labels is None
    assert store.content_hash == reference(folder / "dog", tmp_path / "root").content_hash
    packed = whole(
        prepare_directory(tar_of(folder / "dog", tmp_path / "a.tar"), tmp_path / "b", resolution=16, processes=1)
    )
    assert packed.content_hash == store.content_hash


def test_tiny_imagenet(tmp_path: Path) -> None:
    path = SHARED_DATA / "tiny_imagenet_20" / "val"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    store = whole(prepare_directory(path, tmp_path / "out", resolution=64, processes=2))
    assert store.split == "val"
    assert store.content_hash == reference(path, tmp_path / "root", 64).content_hash


def test_splits_become_directories_that_find_each_other(tmp_path: Path, folder: Path) -> None:
    top = tmp_path / "set"
    top.mkdir()
    folder.rename(top / "train")
    (top / "val" / "cat" / "images").mkdir(parents=True)  # as tiny-ImageNet has them
    for name in ("bird", "dog"):
        (top / "val" / name).mkdir()
        Image.fromarray(pixels(16, 16, 3, seed=7)).save(top / "val" / name / "1.png")
    Image.fromarray(pixels(16, 16, 3, seed=8)).save(top / "val" / "cat" / "images" / "1.png")
    (top / "test").mkdir()
    Image.fromarray(pixels(16, 16, 3, seed=9)).save(top / "test" / "1.png")
    out = tmp_path / "out"
    prepared = prepare_directory(
        top, out, resolution=16, processes=1, selection=Selection(classes=2, images_per_class=3)
    )
    assert {name: store.num_images for name, store in prepared.stores.items()} == {"test": 1, "train": 6, "val": 2}
    assert prepared.stores["val"].class_names == prepared.stores["train"].class_names == ("bird", "cat")
    assert prepared.stores["test"].labels is None
    data = DataConfig(source="prepared", path=str(out / "train"), resolution=16, root=str(tmp_path / "root"))
    assert reference_images(data, "auto").split == "test"
    assert reference_images(data, "auto", str(out / "val")).content_hash == prepared.stores["val"].content_hash
    with pytest.raises(UserError, match=r"accepted: .*out/test or .*out/train or .*out/val"):
        prepare("prepared", path=out, resolution=16)
    assert not (tmp_path / "root").exists()


def test_splits_may_hold_images_without_classes(tmp_path: Path, folder: Path) -> None:
    for split, name in {"test": "cat", "train": "dog"}.items():
        shutil.copytree(folder / name, tmp_path / "set" / split)
    prepared = prepare_directory(tmp_path / "set", tmp_path / "out", resolution=16, processes=1)
    found = {name: (store.num_images, store.labels) for name, store in prepared.stores.items()}
    assert found == {"test": (5, None), "train": (6, None)}


def test_names_that_are_no_text_are_read_in_order_and_shown(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On Linux a name is any bytes; those that are no UTF-8 become characters that cannot be printed."""
    odd = folder / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    names = [b"\x80.png", b"\xe9.png", b"\xff.png", *(f"{letter}.png".encode() for letter in "aé가😀")]
    for seed, name in enumerate(names):
        (odd / os.fsdecode(name)).write_bytes(png(seed))
    (odd / os.fsdecode(b"\xfe.png")).write_bytes(b"nonsense")
    skipped = odd.name + "/" + os.fsdecode(b"\xfe.png")
    with pytest.raises(UserError, match="cannot read the image"):
        reference(folder, tmp_path / "root", 8)
    expected = reference(folder, tmp_path / "root", 8, skip_corrupt=True)
    assert (list(expected.skipped), expected.class_names) == ([skipped], ("bird", odd.name, "cat", "dog"))
    assert "left out: caf\\udce9/\\udcfe.png" in capsys.readouterr().err

    out = tmp_path / os.fsdecode(b"out\xe9")
    base = ["prepare", str(folder), "--out", str(out), "--resolution", "8", "--processes", "1"]
    result = CliRunner().invoke(main, base)
    assert result.exit_code == 2 and "caf\\udce9/\\udcfe.png (no image" in result.stderr
    result = CliRunner().invoke(main, [*base, "--skip-corrupt"])
    assert result.exit_code == 0 and result.stdout.startswith(f"{tmp_path}/out\\udce9: 22 images"), result.output
    assert "left out: caf\\udce9/\\udcfe.png" in result.stderr
    assert whole(verify(out)).content_hash == expected.content_hash
    listed = [json.loads(line)["file"] for line in (out / "files.jsonl").read_text().splitlines()]
    assert [name for name in listed if name.startswith(odd.name)] == [
        f"{odd.name}/{os.fsdecode(n)}" for n in sorted(names)
    ]

    selection = Selection(classes=[odd.name], images_per_class=1, seed=0)
    chosen = prepare_directory(
        folder, tmp_path / "few", resolution=8, selection=selection, skip_corrupt=True, processes=1
    )
    assert (whole(chosen).num_images, whole(chosen).class_names) == (1, (odd.name,))


def test_training_reads_a_prepared_directory_in_place(tmp_path: Path, folder: Path) -> None:
    store = whole(prepare_directory(folder, tmp_path / "out", resolution=16, processes=1))
    opened = prepare("prepared", path=tmp_path / "out", resolution=16, root=tmp_path / "root")
    assert opened.content_hash == store.content_hash
    assert not (tmp_path / "root").exists()
    images, labels = Loader(opened, 4, "cpu", flip=False, seed=0, resident=False).next_batch()
    assert images.shape == (4, 3, 16, 16)
    assert labels is not None
    with pytest.raises(UserError, match=r"data\.resolution: found 32.*accepted: 16"):
        prepare("prepared", path=tmp_path / "out", resolution=32)
    with pytest.raises(UserError, match=r"data\.classes"):
        prepare("prepared", path=tmp_path / "out", resolution=16, classes=2)
    with pytest.raises(UserError, match=r"data\.path"):
        prepare("prepared", path=folder, resolution=16)


def test_a_header_that_numpy_cannot_parse_is_damage(tmp_path: Path, folder: Path) -> None:
    """Its parser is Python's: of a bracket that is not closed it raises neither a ValueError nor an OSError."""
    prepare_directory(folder, tmp_path / "out", resolution=16, processes=1)
    images = tmp_path / "out" / "images.npy"
    content = images.read_bytes()
    assert content.count(b")") >= 1
    images.write_bytes(content.replace(b")", b"(", 1))
    with pytest.raises(UserError, match="not a whole directory of prepared images"):
        prepare("prepared", path=tmp_path / "out", resolution=16)


# archives


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(data))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(8, 8, 3, seed=seed)).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kind", ["cls", "json"])
def test_webdataset_shards_have_the_labels_beside_the_images(tmp_path: Path, mode: str, kind: str) -> None:
    labels = [0, 10, 2, 2, 0, 10, 10, 0, 2, 10, 0, 0]
    for shard in range(3):
        with tarfile.open(tmp_path / f"s-{shard:02d}.tar", mode) as archive:
            for key in range(4 * shard, 4 * shard + 4):
                label = str(labels[key]) if kind == "cls" else json.dumps({"label": labels[key], "text": "x"})
                parts = [("png", png(key)), (kind, label.encode()), ("txt", b"caption")]
                for extension, data in parts[:: 1 if key % 2 else -1]:
                    add(archive, f"{key:04d}.{extension}", data)
    store = whole(prepare_directory(tmp_path / "s-{00..02}.tar", tmp_path / "a", resolution=8, processes=2))
    assert store.class_names == ("0", "2", "10")
    order = sorted(range(12), key=lambda key: labels[key])
    assert store.labels.tolist() == [(0, 2, 10).index(labels[key]) for key in order]
    for image, key in zip(store.images, order, strict=True):
        assert np.array_equal(image, pixels(8, 8, 3, seed=key))
    again = whole(prepare_directory(tmp_path / "s-*.tar", tmp_path / "b", resolution=8, processes=1))
    assert again.content_hash == store.content_hash
    assert json.loads((tmp_path / "a" / "files.jsonl").open().readline())["archive"].startswith("s-0")


def test_a_sample_without_a_label_among_labelled_ones_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "1.png", png(1))
        add(archive, "1.cls", b"3")
        add(archive, "2.png", png(2))
    refused("a.tar:2.png", "label", source=tmp_path / "a.tar", out=tmp_path / "out")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "1.cls", b"\xff\xfe")
    refused("a.tar", "1.cls", source=tmp_path / "a.tar", out=tmp_path / "out")


@pytest.mark.parametrize("order", ["cls jpg seg.png", "jpg cls seg.png", "jpg seg.png cls", "json jpg seg.png"])
def test_a_second_image_beside_a_label_is_refused(tmp_path: Path, order: str) -> None:
    """The masks of a segmentation must neither become images nor take the label of theirs."""
    content = {"jpg": png(1), "seg.png": png(2), "cls": b"3", "json": b'{"label": 3}'}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for key in ("0001", "0002"):
            for extension in order.split():
                add(archive, f"{key}.{extension}", content[extension])
    told = "a.tar: 0001.jpg and 0001.seg.png are images of one sample; accepted: one"
    refused(told, source=tmp_path / "a.tar", out=tmp_path / "out")


def test_images_without_labels_may_share_the_first_word_of_their_names(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for seed, name in enumerate(("x/IMG.1.png", "x/IMG.2.png", "x/IMG.3.png")):
            add(archive, name, png(seed))
        add(archive, "x/IMG.json", b'{"text": "says nothing of a class"}')
    store = whole(prepare_directory(tmp_path / "a.tar", tmp_path / "out", resolution=8, processes=1))
    assert (store.num_images, store.labels) == (3, None)


def test_a_tar_of_tars_has_a_class_in_each(tmp_path: Path, folder: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for name in ("cat", "bird", "dog"):
            archive.add(tar_of(folder / name, tmp_path / f"{name}.tar"), f"{name}.tar")
    store = whole(prepare_directory(tmp_path / "all.tar", tmp_path / "out", resolution=16, processes=1))
    assert store.content_hash == reference(folder, tmp_path / "root").content_hash


def test_links_and_devices_are_passed_over_and_names_cannot_climb(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(9))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "x/1.png", png(1))
        add(archive, "x/2.png", type=tarfile.SYMTYPE, linkname=str(secret))
        add(archive, "x/3.png", type=tarfile.LNKTYPE, linkname="x/1.png")
        add(archive, "x/4.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
        add(archive, "x/5.png", type=tarfile.FIFOTYPE)
    assert whole(prepare_directory(tmp_path / "a.tar", tmp_path / "a", resolution=8, processes=1)).num_images == 1
    for number, name in enumerate(("../up.png", "/root.png", "x/../../up.png")):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            add(archive, name, png(1))
        refused(repr(name), "outside", source=tmp_path / f"{number}.tar", out=tmp_path / "out")
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as packed:
            packed.writestr(name, png(1))
        refused(repr(name), "outside", source=tmp_path / f"{number}.zip", out=tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as packed:
        packed.writestr("1.png", png(1))
        link = zipfile.ZipInfo("2.png")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, str(secret))
    assert whole(prepare_directory(tmp_path / "link.zip", tmp_path / "b", resolution=8, processes=1)).num_images == 1
    assert not (tmp_path.parent / "up.png").exists()


def test_a_later_member_of_the_same_name_replaces_the_earlier(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for seed, name in enumerate(("x/1.png", "x/2.png", "x/1.png")):
            add(archive, name, png(seed))
    store = whole(prepare_directory(tmp_path / "a.tar", tmp_path / "out", resolution=8, processes=1))
    assert np.array_equal(store.images, [pixels(8, 8, 3, seed=2), pixels(8, 8, 3, seed=1)])
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        add(archive, "x/1.png", png(3))  # in another archive it is another image
    store = whole(prepare_directory(tmp_path / "{a,b}.tar", tmp_path / "both", resolution=8, processes=1))
    assert np.array_equal(store.images, [pixels(8, 8, 3, seed=seed) for seed in (2, 3, 1)])


def test_a_member_of_a_zip_archive_without_a_name_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name in ("1.png", "2.png", ""):
            packed.writestr(zipfile.ZipInfo(name), png(0))
    assert whole(prepare_directory(path, tmp_path / "out", resolution=8, processes=1)).num_images == 2


def test_a_zip_beyond_32_bits_is_read_by_processes_that_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 600)  # so that positions and the directory need 64 bits
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)
    monkeypatch.setattr(writing, "BLOCK_IMAGES", 3)  # several workers read from one open archive
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"a comment"
        for index in range(60):
            archive.writestr(f"class/é{index:02d}.png", png(index))
        archive.writestr("class/", b"")
    store = whole(prepare_directory(path, tmp_path / "out", resolution=8, processes=4))
    assert np.array_equal(store.images, [pixels(8, 8, 3, seed=index) for index in range(60)])


def test_zip_members_that_are_no_plain_images_are_corrupt(tmp_path: Path) -> None:
    """A member may lie about its size, be encrypted or packed otherwise; no more is unpacked than it announces."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("announced.png", bytes(2**28 + 1))
        archive.writestr("bomb.png", bytes(2**27))
        archive.writestr("bzip2.png", png(0), zipfile.ZIP_BZIP2)
        archive.writestr("changed.png", png(1), zipfile.ZIP_STORED)
        archive.writestr("encrypted.png", png(2))
        archive.writestr("good.png", png(3))
        archive.getinfo("bomb.png").file_size = 1000
        archive.getinfo("encrypted.png").flag_bits |= 1
    path.write_bytes(path.read_bytes().replace(png(1), png(1)[:-20] + bytes(20)))
    source = ZipInput(path)
    reasons = {0: "bytes; accepted", 2: "method 12; accepted", 3: "Bad CRC-32", 4: "encrypted"}
    for index, reason in reasons.items():
        with pytest.raises((ValueError, zipfile.BadZipFile), match=reason):
            source.read(index)
    tracemalloc.start()
    with pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
        source.read(1)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()
    prepared = prepare_directory(path, tmp_path / "out", resolution=8, skip_corrupt=True, processes=1)
    assert whole(prepared).num_images == 1
    assert len(prepared.skipped()) == 5


def test_damaged_archives_are_named(tmp_path: Path, folder: Path) -> None:
    for path in (tar_of(folder, tmp_path / "a.tgz", "w:gz"), zip_of(folder, tmp_path / "a.zip")):
        data = path.read_bytes()
        for cut in (10, len(data) // 2, len(data) - 30):
            path.write_bytes(data[:cut])
            refused(path.name, source=path, out=tmp_path / "out")
    (tmp_path / "b.tar").write_bytes(b"nonsense" * 200)
    refused("b.tar", "not a whole tar", source=tmp_path / "b.tar", out=tmp_path / "out")
    refused("nowhere", "accepted", source=tmp_path / "nowhere", out=tmp_path / "out")
    refused("s-1.tar", "accepted", source=tmp_path / "s-{1..3}.tar", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_patterns_are_read_as_by_the_shell() -> None:
    assert _expand("a-{08..11}.tar") == [f"a-{number:02d}.tar" for number in (8, 9, 10, 11)]
    assert _expand("{a,b}-{2..1}") == ["a-2", "a-1", "b-2", "b-1"]
    with pytest.raises(UserError, match="100000"):
        _expand("{0..999999999}{0..999999999}")


# which images


def numbered(tmp_path: Path, classes: int = 6, images: int = 5) -> Path:
    top = tmp_path / "numbered"
    for name in range(classes):
        (top / f"n{name}").mkdir(parents=True)
        for index in range(images):
            Image.new("RGB", (2, 2), (name, index, 0)).save(top / f"n{name}" / f"{index}.png")
    return top


def test_selections(tmp_path: Path) -> None:
    source = numbered(tmp_path)

    def select(**options: object) -> list[str]:
        out = tmp_path / f"out-{time.monotonic_ns()}"
        store = whole(prepare_directory(source, out, resolution=2, processes=1, selection=Selection(**options)))
        listed = [json.loads(line) for line in (out / "files.jsonl").read_text().splitlines()]
        for image, label, line in zip(store.images, store.labels, listed, strict=True):
            folder, name = line["file"].split("/")
            assert line["class"] == folder == store.class_names[label]
            assert (f"n{image[0, 0, 0]}", f"{image[0, 0, 1]}.png") == (folder, name)
        return [line["file"] for line in listed]

    def classes(files: list[str]) -> list[str]:
        return sorted({file.split("/")[0] for file in files})

    assert classes(select(classes=2)) == ["n0", "n1"]
    assert classes(select(classes=["n5", "n3"])) == ["n3", "n5"]
    assert classes(select(class_pattern="[24]$")) == ["n2", "n4"]
    assert classes(select(class_pattern="[245]", classes=2)) == ["n2", "n4"]
    assert select(classes=1, images_per_class=2) == ["n0/0.png", "n0/1.png"]
    few = select(classes=3, images_per_class=2, seed=1)
    assert few == select(classes=3, images_per_class=2, seed=1)
    assert len({tuple(select(classes=3, images_per_class=2, seed=seed)) for seed in range(5)}) > 1
    assert len(few) == 6
    assert len(classes(few)) == 3
    subset = select(subset=11)
    assert len(set(subset)) == 11
    assert subset == sorted(subset) == select(subset=11, seed=0)
    assert subset != select(subset=11, seed=1)


def test_selections_are_refused_by_name(tmp_path: Path) -> None:
    source, out = numbered(tmp_path), tmp_path / "out"

    def fails(*parts: str, **options: object) -> None:
        refused(*parts, source=source, out=out, selection=Selection(**options))

    fails("--classes", "'m1'", "n0, n1", classes=["m1"])
    fails("--classes", "7", "1 to 6", classes=7)
    fails("--class-pattern", "'x'", class_pattern="x")
    fails("--class-pattern", "no regular expression", class_pattern="(")
    fails("--images-per-class", "n0", "1 to 5", images_per_class=6)
    fails("--subset", "1 to 30", subset=31)
    refused("--classes", "no classes", source=source / "n0", out=out, selection=Selection(classes=1))
    refused("--resolution", "0", source=source, out=out, resolution=0)
    Image.new("RGB", (2, 2)).save(source / "loose.png")
    refused("loose.png", "both", source=source, out=out)
    (source / "loose.png").rename(source / "n0" / "loose.png")
    (source / "empty").mkdir()
    refused("empty", "no images", source=source, out=out)
    assert not out.exists()


# disturbances


@pytest.mark.parametrize("kind", ["folder", "tar.gz"])
def test_corrupt_images(tmp_path: Path, folder: Path, kind: str) -> None:
    (folder / "cat" / "a.png").write_bytes(b"nonsense")
    (folder / "dog" / "grey.png").write_bytes(png(0)[:60])
    (folder / "dog" / "grey.jpg").write_bytes(b"")
    source = folder if kind == "folder" else tar_of(folder, tmp_path / "a.tar.gz", "w:gz")
    out = tmp_path / "out"
    refused("cannot read the image", source=source, out=out)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "out"))]
    prepared = prepare_directory(source, out, resolution=16, skip_corrupt=True, processes=2)
    expected = reference(folder, tmp_path / "root", skip_corrupt=True)
    assert whole(prepared).content_hash == expected.content_hash
    named = ["cat/a.png", "dog/grey.jpg", "dog/grey.png"]
    assert [line.split(" ")[0] for line in prepared.skipped()] == named
    assert json.loads((out / "meta.json").read_text())["skipped"] == dict(whole(prepared).skipped)
    assert list(whole(prepared).skipped) == named == list(expected.skipped)
    assert whole(verify(out)).content_hash == expected.content_hash
    assert len((out / "files.jsonl").read_text().splitlines()) == expected.num_images
    again = tmp_path / "again"
    prepare_directory(source, again, resolution=16, skip_corrupt=True, processes=1)
    assert contents(again) == contents(out)
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    refused("cannot be read", source=folder, out=tmp_path / "none", skip_corrupt=True)


@pytest.mark.parametrize("target", ["nowhere.png", "link.png"], ids=["to nothing", "in a circle"])
def test_a_link_that_cannot_be_followed_is_a_corrupt_image(tmp_path: Path, folder: Path, target: str) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    before = reference(folder, root)
    link = folder / "cat" / "link.png"
    link.symlink_to(target)
    refused(f"cannot read the image {link}", "--skip-corrupt", source=folder, out=out)
    with pytest.raises(UserError, match=rf"cannot read the image {link}.*--skip-corrupt"):
        reference(folder, root)
    prepared = prepare_directory(folder, out, resolution=16, skip_corrupt=True, processes=1)
    read = reference(folder, root, skip_corrupt=True)
    assert dict(whole(prepared).skipped) == dict(read.skipped) == {"cat/link.png": "not a regular file"}
    assert whole(prepared).content_hash == read.content_hash == before.content_hash
    link.unlink()
    link.write_bytes(png(0))
    assert reference(folder, root, skip_corrupt=True).num_images == before.num_images + 1
    refused("--out", "other images", source=folder, out=out, skip_corrupt=True)


def test_a_want_of_memory_is_no_damage(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(data: bytes, resolution: int) -> np.ndarray:
        raise MemoryError

    options = {"resolution": 16, "skip_corrupt": True, "processes": 1}
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_row", no_room)
        with pytest.raises(MemoryError):
            prepare_directory(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    prepared = prepare_directory(folder, tmp_path / "out", **options)
    assert (whole(prepared).num_images, prepared.skipped()) == (15, [])


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_what_is_no_image_is_counted(
    tmp_path: Path, folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make = {"folder": lambda *_: folder, "tar": tar_of, "zip": zip_of}[kind]
    source = make(folder, tmp_path / f"a.{kind}")
    prepare_directory(source, tmp_path / "out", resolution=8, processes=1)
    counted = f"{source}: 3 entries passed over as no images: 2 .txt, 1 hidden"
    assert capsys.readouterr().err.splitlines()[0] == counted


def test_a_class_without_a_whole_image_is_refused(tmp_path: Path, folder: Path) -> None:
    for file in (folder / "cat").iterdir():
        file.write_bytes(b"")
    refused("no image of the class cat", source=folder, out=tmp_path / "out", skip_corrupt=True)
    assert not (tmp_path / "out").exists()


def test_a_worker_that_dies_costs_only_its_image(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = decoding.decode_row

    def deadly(data: bytes, resolution: int) -> np.ndarray:
        if data == b"deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(data, resolution)

    expected = reference(folder, tmp_path / "root")
    (folder / "cat" / "a.png").write_bytes(b"deadly")
    monkeypatch.setattr(decoding, "decode_row", deadly)
    monkeypatch.setattr(writing, "BLOCK_IMAGES", 3)
    prepared = prepare_directory(folder, tmp_path / "out", resolution=16, skip_corrupt=True, processes=2)
    assert prepared.skipped() == ["cat/a.png (its decoder crashed)"]
    assert whole(prepared).content_hash == expected.content_hash
    refused("cat/a.png", "crashed", source=folder, out=tmp_path / "other")


@pytest.mark.parametrize("kind", ["folder", "tar.gz"])
def test_a_stopped_preparation_goes_on(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = numbered(tmp_path)
    (folder / "n1" / "1.png").write_bytes(b"nonsense")
    source = folder if kind == "folder" else tar_of(folder, tmp_path / "a.tar.gz", "w:gz")
    options = {"resolution": 2, "skip_corrupt": True, "processes": 1}
    prepare_directory(source, tmp_path / "whole", **options)
    monkeypatch.setattr(writing, "BLOCK_IMAGES", 4)
    decoded = writing.decoded

    def stopped(*arguments: object) -> object:
        for number, outcome in enumerate(decoded(*arguments)):
            if number == 4:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr(writing, "decoded", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare_directory(source, tmp_path / "out", **options)
    staging = tmp_path / ".out.unfinished"
    assert not (tmp_path / "out").exists()
    assert (staging / "journal").stat().st_size == 8 * 16
    with (staging / "journal").open("ab") as journal:
        journal.write(b"half")
    with (staging / "images.npy").open("rb+") as file:  # pixels that never reached the disk
        file.seek(-12 * 17, os.SEEK_END)
        file.write(b"\1" * 12 * 17)
    monkeypatch.setattr(writing, "decoded", decoded)
    capsys.readouterr()
    prepare_directory(source, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert kind != "folder" or " 13/30 " in capsys.readouterr().err
    assert not staging.exists()


def test_a_killed_process_is_continued_by_the_same_command(tmp_path: Path) -> None:
    data = [png(seed) for seed in range(50)]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for index in range(3000):
            add(archive, f"n{index % 7}/{index}.png", data[index % 50])
    command = [sys.executable, "-m", "gan.data", "prepare", str(tmp_path / "a.tar"), "--resolution", "48"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    journal = tmp_path / ".out.unfinished" / "journal"
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out"), "--processes", "1"], cwd=ROOT,
                               stderr=subprocess.DEVNULL, env=environment)  # fmt: skip
    while process.poll() is None and (not journal.exists() or journal.stat().st_size < 8 * 500):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 500 <= journal.stat().st_size // 8 < 3000
    prepare_directory(tmp_path / "a.tar", tmp_path / "out", resolution=48, processes=2)
    prepare_directory(tmp_path / "a.tar", tmp_path / "whole", resolution=48, processes=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_is_there_is_kept(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    prepare_directory(folder, out, resolution=16, processes=1)
    before = (out / "images.npy").stat().st_mtime_ns
    prepare_directory(folder, out, resolution=16, processes=1)
    assert (out / "images.npy").stat().st_mtime_ns == before
    refused("--out", "otherwise", source=folder, out=out, resolution=8)
    (folder / "cat" / "grey.png").unlink(missing_ok=True)
    Image.new("L", (8, 8)).save(folder / "cat" / "new.png")
    refused("--out", "other images", source=folder, out=out)
    refused("--out", "something else", source=folder, out=folder)
    (out / "images.npy").write_bytes(b"")
    (folder / "cat" / "new.png").unlink()
    refused("--out", source=folder, out=out)


def test_two_at_once_do_not_write_into_each_other(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = tmp_path / ".out.unfinished"
    monkeypatch.setattr(preparing, "PATIENCE", 0.1)
    with locked(staging / preparing.LOCK):
        refused("another process", source=folder, out=tmp_path / "out")
        assert staging.exists()
    prepare_directory(folder, tmp_path / "out", resolution=16, processes=1)


@pytest.mark.parametrize("asks", ["while it works", "when it has ended"])
def test_one_that_waited_opens_what_the_other_has_made(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    """The second finds no directory, and asks for the lock while the first works or when it has ended."""
    out, options = tmp_path / "out", {"resolution": 16, "processes": 1}
    first, begun, ended = threading.get_ident(), threading.Event(), threading.Event()
    write_split, others = preparing.write_split, []

    @contextmanager
    def locked_in_turn(lock: Path, patience: float) -> Iterator[bool]:
        if threading.get_ident() != first:
            begun.set()
            assert asks == "while it works" or ended.wait(30)
        with locked(lock, patience) as held:
            yield held

    def write_and_wait(*arguments: object) -> None:
        write_split(*arguments)
        others.append(threads.submit(prepare_directory, folder, out, **options))
        assert begun.wait(30)
        time.sleep(0.2)  # until it waits for the lock

    monkeypatch.setattr(preparing, "write_split", write_and_wait)
    monkeypatch.setattr(preparing, "locked", locked_in_turn)
    with ThreadPoolExecutor(1) as threads:
        made = prepare_directory(folder, out, **options)
        ended.set()
        (other,) = others
        assert whole(other.result()).content_hash == whole(made).content_hash
    assert sorted(contents(out)) == ["files.jsonl", "images.npy", "labels.npy", "meta.json", "preparation.json"]
    assert not (tmp_path / ".out.unfinished").exists()


def test_one_that_waited_begins_where_the_other_left_nothing(tmp_path: Path, folder: Path) -> None:
    """As one whose images were refused removes what it has written, and with it the lock."""
    staging = tmp_path / ".out.unfinished"
    with ThreadPoolExecutor(1) as threads:
        with locked(staging / preparing.LOCK):
            other = threads.submit(prepare_directory, folder, tmp_path / "out", resolution=16, processes=1)
            time.sleep(0.5)  # until it waits for the lock
            shutil.rmtree(staging)
        assert whole(other.result()).num_images == 15
    assert not staging.exists()


def test_nothing_is_prepared_onto_a_mount_point(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "volume"
    out.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    refused(f"--out: {out} is a mount point; accepted: a directory below it", source=folder, out=out)
    assert not any(out.iterdir())
    prepare_directory(folder, out / "images", resolution=16, processes=1)
    shutil.copytree(out / "images", out, dirs_exist_ok=True)
    prepare_directory(folder, out, resolution=16, processes=1)  # what is there is opened


def test_verify_finds_a_bit(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out"
    prepare_directory(folder, out, resolution=16, processes=1)
    verify(out)
    for name in ("images.npy", "labels.npy"):
        data = bytearray((out / name).read_bytes())
        data[-1] ^= 1
        (out / name).write_bytes(data)
        with pytest.raises(UserError, match="checksum"):
            verify(out)
        data[-1] ^= 1
        (out / name).write_bytes(data)
    verify(out)
    with pytest.raises(UserError, match="no whole directory"):
        verify(folder)


def test_a_full_disk_is_named_before_anything_is_decoded(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and type("Usage", (), {"free": 10}))
    with pytest.raises(StorageError, match="needed"):
        prepare_directory(folder, tmp_path / "out", resolution=16, processes=1)


# size


def test_a_listing_is_compact_and_a_large_one_is_walked() -> None:
    tracemalloc.start()
    listing = Listing(["a.tar"])
    for index in range(30_000):
        listing.add(f"n{index % 1000:08d}", f"n01440764_{index:08d}.JPEG", Place(0, index << 20, index, 0))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 6e6  # 200 bytes an image at the most, with what growing needs
    assert listing.path(29_999) == "n00000999/n01440764_00029999.JPEG"
    assert listing.place(3) == (0, 3 << 20, 3, 0)


def test_tar_members_are_not_kept(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for index in range(5000):
            add(archive, f"x/{index}.png", b"1")
    tracemalloc.start()
    assert len(TarInput([tmp_path / "a.tar"]).listing) == 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6  # tarfile's own list would take 5 MB


def test_folders_are_not_followed_in_circles(tmp_path: Path, folder: Path) -> None:
    (folder / "dog" / "again").symlink_to(folder)
    assert len(FolderInput(folder / "dog").listing) == 6
    (folder / "dog" / "cat").symlink_to(folder / "cat")
    (folder / "cat" / "dog").symlink_to(folder / "dog")
    assert len(FolderInput(folder / "dog").listing) == 11


# the command


def test_the_command(tmp_path: Path, folder: Path) -> None:
    def call(*arguments: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(main, ["prepare", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    out = tmp_path / "out"
    base = [folder, "--out", out, "--resolution", 16, "--processes", 1]
    status, output, errors = call(*base, "--classes", "dog,cat", "--images-per-class", 2, "--seed", 3)
    assert status == 0, errors
    assert output.startswith(f"{out}: 4 images of 16×16×3, 2 classes, SHA-256 ")
    assert "4/4" in errors
    assert call("--out", out, "--verify")[:2] == (0, output)
    (tmp_path / "names.txt").write_text("dog\tCanis\n\ncat\tFelis\n")
    assert call(*base, "--classes", tmp_path / "names.txt", "--images-per-class", 2, "--seed", 3)[:2] == (0, output)
    assert call(*base)[0] == 2
    (folder / "dog" / "bad.png").write_bytes(b"bad")
    status, output, errors = call(folder, "--out", tmp_path / "b", "--resolution", 16)
    assert (status, output) == (2, "")
    assert errors.splitlines()[-1].startswith("main prepare: cannot read the image")
    assert "dog/bad.png" in errors
    status, output, errors = call(folder, "--out", tmp_path / "b", "--resolution", 16, "--skip-corrupt")
    assert status == 0
    assert "1 corrupt image left out: dog/bad.png" in errors
    assert f"{folder}: 3 entries passed over as no images: 2 .txt, 1 hidden" in errors.splitlines()
    assert call("--out", tmp_path / "c")[0] == 2
    for given, told in (
        (
            ["digits", "--out", tmp_path / "x.npz", "--subset", 10],
            "--subset: given, but a data set becomes a file whole",
        ),
        ([*base[:2], tmp_path / "d", *base[3:], "--split", "test"], "--split: given, but for a data set that becomes"),
        ([folder, "--out", out, "--verify"], "source: given, but --verify reads --out as it is"),
    ):
        status, output, errors = call(*given)
        assert (status, output) == (2, "") and told in errors.splitlines()[-1]


def test_the_current_folder_can_be_prepared(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert whole(prepare_directory(folder, ".", resolution=16, processes=1)).num_images > 0


def test_a_tar_that_is_damaged_or_cut_is_not_a_shorter_one(tmp_path: Path, folder: Path) -> None:
    """tarfile takes a later header that it cannot read for the end of the archive."""
    path = tar_of(folder, tmp_path / "a.tar")
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        at = archive.getmembers()[8].offset
    for damaged in (data[:at] + b"\xff" + data[at + 1 :], data[: at + 100], data[:at]):
        path.write_bytes(damaged)
        refused("is not a whole tar archive", source=path, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
    path.write_bytes(data)
    assert whole(prepare_directory(path, tmp_path / "out", resolution=16, processes=1)).num_images


def test_a_folder_of_images_within_a_class_is_passed_over_by_the_image_folder_too(tmp_path: Path, folder: Path) -> None:
    nested = tmp_path / "nested"
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        shutil.copytree(folder / name, nested / name / "images")
        (nested / name / f"{name}_boxes.txt").write_text("")
    store = reference(nested, tmp_path / "root")
    assert store.content_hash == reference(folder, tmp_path / "root").content_hash
    prepared = whole(prepare_directory(nested, tmp_path / "out", resolution=16, processes=1))
    assert (prepared.content_hash, prepared.class_names) == (store.content_hash, store.class_names)
