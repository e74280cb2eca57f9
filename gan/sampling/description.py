"""What is known of a trained generator besides its weights and its config: the `config.json` of an export."""

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from gan.build import ImageFacts
from gan.config import Positive, Section
from gan.errors import UserError


class Description(Section):
    """Facts of one generator.

    `run` is the name of the run directory and `weights` says which of its two generators. `evaluations` are results as
    in RUN/evaluations, each with its protocol; `digest` is `gan.training.checkpoint.digest` of the state dict.
    """

    format: Literal[1] = 1
    library: Literal["gan"] = "gan"
    run: str
    step: int
    weights: Literal["ema", "raw"]
    architecture: str
    resolution: Positive
    channels: Positive
    latent_dim: Positive
    num_classes: Positive | None
    class_names: tuple[str, ...]
    parameters: int
    digest: str
    licence: str = "unknown"
    evaluations: tuple[dict[str, Any], ...] = ()

    @property
    def facts(self) -> ImageFacts:
        """What a generator is built from, beside its config."""
        return ImageFacts(self.resolution, self.channels, self.num_classes)

    def write(self, path: Path) -> None:
        """As JSON, a key for each field."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Description":
        """The inverse of `write`.

        Raises:
            UserError: the file is missing, damaged or of another format.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{path}: {key or 'JSON'}: {first['msg']}; accepted: what gan.export wrote") from error
