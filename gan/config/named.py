"""Configs that come with the package, found by name from any folder."""

from pathlib import Path

from gan.errors import UserError, nearest


def config_folder() -> Path:
    """configs/ of the installed package, or of the repository that the package is run in."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Names that `find_config` knows, such as digits/dcgan_cr, in order."""
    folder = config_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def find_config(name: str | Path) -> Path:
    """The file `name`, else the packaged config that is called so, with or without configs/ before and .yaml behind.

    Raises:
        UserError: there is neither; the nearest names are given.
    """
    file = Path(name)
    if file.is_file():
        return file
    known = config_names()
    asked = file.as_posix().removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    if asked in known:
        return config_folder() / f"{asked}.yaml"
    raise UserError(f"config {name}: no such file, and none of this name in the package{nearest(asked, known)}")
