"""Cases made by a grammar: images by format, mode and shape; YAML scalars; names with characters terminals obey."""

import io
import math
import random
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fuzz_bytes import Case, flipped
from benchmarks.fuzz_configs import SMALL, VALID, keys
from gan.commands.line import prepare as command_line
from gan.config import dump_yaml, load_config, parse_yaml, validate
from gan.data.store import prepare
from gan.errors import UserError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "ICO", "EPS", "PCX", "TGA", "JPEG2000", "PDF", "SGI")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")
SIDES = (1, 2, 7, 8, 9, 33, 400, 1200)
SUFFIXES = (".png", ".PNG", ".jpg", ".bmp", ".tif", ".webp", ".ppm", ".pgm")


def picture_cases(chance: random.Random, folder: Path) -> Case:
    """An image of any format, mode and shape, under any suffix, at times with a false header or damaged."""
    images = folder / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    content = _encoded(chance)
    if chance.random() < 0.2:
        content = _png_of(chance.choice([1, 8, 30_000, 2**31 - 1]), chance.choice([1, 8, 400_000, 2**31 - 1]), chance)
    if chance.random() < 0.3:
        content = flipped(content, chance)
    (images / f"a{chance.choice(SUFFIXES)}").write_bytes(content)

    def read() -> None:
        store = prepare("image_folder", path=images, resolution=8, root=folder / "prepared")
        assert store.images[:].shape == (1, 8, 8, 3) and store.images.dtype == np.uint8
        shutil.rmtree(folder / "prepared")

    return read


def _encoded(chance: random.Random) -> bytes:
    """Frames of one size; another format or mode where Pillow cannot write the first."""
    while True:
        size, mode, form = (chance.choice(SIDES), chance.choice(SIDES)), chance.choice(MODES), chance.choice(FORMATS)
        frames = [Image.new(mode, size) for _ in range(chance.choice([1, 1, 1, 3]))]
        more = {"save_all": True, "append_images": frames[1:]} if len(frames) > 1 else {}
        buffer = io.BytesIO()
        try:
            frames[0].save(buffer, form, **more)
        except (OSError, ValueError, KeyError, SystemError, TypeError):
            continue
        if buffer.tell():
            return buffer.getvalue()


def _png_of(width: int, height: int, chance: random.Random) -> bytes:
    """A PNG whose header, with a right checksum, claims a size that its few bytes do not have."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, chance.choice([1, 8, 16]), chance.choice([0, 2, 3, 4, 6]), 0, 0, 0)
    data = zlib.compress(bytes(chance.choice([0, 100, 200_000])))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PIECES = (
    "0", "1", "9", "010", "0x", "0o17", "0b1", "1:30", "190:20:30", "1e", "1e400", "e5", "E+5", ".", ".5", ".inf",
    "-.INF", ".nan", "inf", "nan", "-", "+", "_", "1_000", "~", "null", "yes", "No", "on", "true", "TRUE", "y",
    "2001-12-14",
    "2001-12-14t21:59:43.10-05:00", "=", "<<", "!", "!!bool maybe", "!!int x", "!!float .", "!!binary x", "!!set {a}",
    "!!timestamp 9", "!!python/name:os.system", "&a ", "*a", "'", '"', '"\\ud800"', '"\\0"', '"\\x1b[2J"', "\0", "\x1b",
    "\u0085", "\u2028", "\ufeff", "[", "]", "{", "}", ",", ": ", "- ", "? ", "|\n  x", ">\n", "# ", "%YAML 1.1", "---",
    "...", "\t", "\r", "@", "`", "é", "\U0001f600", "9" * 5000, "0" * 5000, "-" + "9" * 50_000, "0x" + "f" * 50_000,
    "a" * 5000,
)  # fmt: skip


def scalar_cases(chance: random.Random, folder: Path) -> Case:
    """A scalar of YAML pieces at one place of a config, in its file or by --set; what is read is written as it was."""
    text = "".join(chance.choice(PIECES) for _ in range(chance.choice([1, 1, 2, 3])))
    place = chance.choice(list(keys({**VALID, **SMALL})))
    if chance.random() < 0.5:
        config = ROOT / "configs" / "digits" / "dcgan_cr.yaml"
        return lambda: load_config(config, [f"{'.'.join(place)}={text}"])
    tree = parse_yaml(dump_yaml({**VALID, **SMALL}), "config")
    section = tree
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = "HERE"

    def read() -> None:
        found = parse_yaml(dump_yaml(tree).replace("HERE", text), "config")
        again = parse_yaml(dump_yaml(found), "config")
        assert again == found or "nan" in repr(found), f"{found!r:.200} becomes {again!r:.200}"
        validate(found) if isinstance(found, dict) else None

    return read


LETTERS = [
    *"ab/\\.. \t\n\r\0\x07\x08\x1b\x7f\x9b\u202e\u2028\ufeff'\";|$`<>&%é\U0001f600",
    "\x1b[31m",
    "\x1b]0;x\x07",
    "../",
]


def name_cases(chance: random.Random, folder: Path) -> Case:
    """An archive or a folder with any names: what `gan prepare` prints has nothing in it that a terminal obeys."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "png")
    bad = content.getvalue()[: chance.choice([20, 1000])]
    names = [f"{_name(chance)}/{_name(chance)}.png" for _ in range(3)] + ["train/a/0.png"]
    source, out = folder / chance.choice(["it.zip", "it.tar"]), folder / "out"
    with zipfile.ZipFile(source, "w") if source.suffix == ".zip" else tarfile.open(source, "w") as archive:
        for name in dict.fromkeys(name.split("\0")[0] or "x" for name in names):  # where ZIP's names end
            data = chance.choice([content.getvalue(), bad])
            if isinstance(archive, zipfile.ZipFile):
                archive.writestr(name, data)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    for old in (out, folder / ".out.unfinished"):
        shutil.rmtree(old, ignore_errors=True)
    options = ["--out", str(out), "--resolution", "8", "--processes", "1", *chance.choice([[], ["--skip-corrupt"]])]

    def read() -> None:
        result = CliRunner().invoke(command_line.main, [str(source), *options])
        if not isinstance(result.exception, SystemExit | None):
            raise result.exception
        lines = result.output.replace("\r", "\n").split("\n")  # of progress
        assert all(map(str.isprintable, lines)), f"printed: {result.output!r:.300}"
        if result.exit_code:
            assert result.exit_code == 2, result.output
            raise UserError("refused")

    return read


def _name(chance: random.Random) -> str:
    letters = [chance.choice(LETTERS) for _ in range(chance.randint(1, 6))]
    return "".join(letters) if chance.random() < 0.95 else "x" * math.ceil(chance.random() * 400)
