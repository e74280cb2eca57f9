"""Every source by name: what it offers before anything is read, and the function that reads it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from gan.data import stacked_mnist, torchvision_sets
from gan.data.digits import digits, stacked_digits
from gan.data.image_folder import image_folder
from gan.data.image_store import ImageStore
from gan.data.mnist import mnist
from gan.data.npz import npz
from gan.data.recipe import Recipe
from gan.errors import UserError, nearest


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source without reading it; None where only its files can tell.

    `resolution` is native. `splits` is empty where the path is the split and any name will do. `options` are the
    keyword arguments of `prepare` that the source takes, `required` those it cannot do without.
    The path of one that `downloads` is a folder or, with `archives`, an .npz archive as well. `unlabelled` are the
    splits without labels of a source that has them.
    """

    channels: int | None
    resolution: int | None
    has_labels: bool | None
    num_classes: int | None
    splits: tuple[str, ...]
    flip_sensible: bool
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    downloads: bool = False
    archives: bool = False
    unlabelled: tuple[str, ...] = ()

    @property
    def reference_split(self) -> str:
        """The split to measure against: test where there is one, else the training images themselves."""
        return "test" if "test" in self.splits else "train"


@dataclass(frozen=True)
class Source:
    """`recipe(split=, resolution=, **options)`; one that downloads also takes `root`, the folder for its files.

    `recipe` is None where `path` is a directory that `gan prepare` wrote: it is opened where it lies. `compose` makes
    of prepared parts the store that training composes its images from.
    """

    info: SourceInfo
    recipe: Callable[..., Recipe] | None
    compose: Callable[[ImageStore], ImageStore] | None = None


def source_info(name: str) -> SourceInfo:
    """The facts of source `name`, without loading it.

    Raises:
        UserError: there is no such source.
    """
    if name not in SOURCES:
        raise UserError(f"data.source: no source {name!r}{nearest(name, SOURCES)}")
    return SOURCES[name].info


def _download(channels: int, resolution: int | None, classes: int | None, splits: str, flip: bool) -> SourceInfo:
    labelled = classes is not None
    return SourceInfo(channels, resolution, labelled, classes, tuple(splits.split()), flip, ("path",), downloads=True)


def _mnist(channels: int, classes: int, flip: bool) -> SourceInfo:
    return replace(_download(channels, 28, classes, "train test", flip), archives=True)


_FOLDER_OPTIONS = ("path", "classes", "images_per_class", "skip_corrupt")

SOURCES: dict[str, Source] = {
    "digits": Source(SourceInfo(1, 8, True, 10, ("train", "test", "all"), False), digits),
    "stacked_digits": Source(SourceInfo(3, 8, True, 1000, ("train", "test", "all"), False, ("count",)), stacked_digits),
    "cifar10": Source(
        _download(3, 32, 10, "train test", flip=True), partial(torchvision_sets.cifar, dataset="CIFAR10")
    ),
    "cifar100": Source(
        _download(3, 32, 100, "train test", flip=True), partial(torchvision_sets.cifar, dataset="CIFAR100")
    ),
    "mnist": Source(_mnist(1, 10, flip=False), partial(mnist, dataset="MNIST")),
    "stacked_mnist": Source(_mnist(3, 1000, flip=False), partial(mnist, dataset="MNIST"), stacked_mnist.compose),
    "fashion_mnist": Source(_mnist(1, 10, flip=True), partial(mnist, dataset="FashionMNIST")),
    "kmnist": Source(_mnist(1, 10, flip=False), partial(mnist, dataset="KMNIST")),
    "svhn": Source(_download(3, 32, 10, "train extra test", flip=False), torchvision_sets.svhn),
    "stl10": Source(
        replace(_download(3, 96, 10, "train test unlabeled", flip=True), unlabelled=("unlabeled",)),
        torchvision_sets.stl10,
    ),
    "celeba": Source(_download(3, None, None, "train valid test all", flip=True), torchvision_sets.celeba),
    "lsun": Source(
        SourceInfo(3, None, True, None, ("train", "val"), True, ("path", "classes"), ("path",)), torchvision_sets.lsun
    ),
    "image_folder": Source(SourceInfo(3, None, None, None, (), True, _FOLDER_OPTIONS, ("path",)), image_folder),
    "npz": Source(SourceInfo(None, None, None, None, (), True, ("path",), ("path",)), npz),
    "prepared": Source(SourceInfo(None, None, None, None, (), True, ("path",), ("path",)), None),
}
