"""Settings of the backbone. Importing this module loads no heavy package."""

import dataclasses
import logging
from typing import Any, Literal

from fedjax_rec.core.checks import check_choice
from fedjax_rec.core.optimizers import check_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The frozen foundation model, and the texts it reads.

    A subclass with a method `load(progress)` of its own is another model.

    Attributes:
        name: `minilm` (all-MiniLM-L6-v2, fetched once), `tiny` (random, for tests), or
            a name of the Hugging Face hub, if it can be reached.
        path: a local folder in Hugging Face's layout, in place of `name`.
        or_tiny: use `tiny`, and say so in the report, if `name` cannot be fetched.
        dtype: type of its weights and activations.
        precision: precision of its float32 products, such as `default`, where that of
            the other products is higher; `None` is `execution.precision`.
        max_tokens: longer texts are cut; 0 is the checkpoint's limit.
        template: an item's text, such as `{title}[. Genres: {genres}]`; by default the
            data set's own.
        notes: table of free texts (`item,text`) for the template's `{note}`.
        shuffle_texts: a control in which every item has the text of another one.
        cache: folder of prefix caches; by default as for the data.
    """

    name: str = "minilm"
    path: str | None = None
    or_tiny: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    precision: Literal["highest", "high", "default"] | None = None
    max_tokens: int = 64
    template: str = ""
    notes: str | None = None
    shuffle_texts: bool = False
    cache: str | None = None

    def __post_init__(self) -> None:
        check_choice(self, "dtype", ("float32", "bfloat16"))
        if self.precision is not None:
            check_choice(self, "precision", ("highest", "high", "default"))
        check_numbers(self)

    def load(self, progress: bool = False) -> tuple[Any, ...]:
        """The `Backbone`, its weights, and a warning if `tiny` replaces it, or "".

        Args:
            progress: show bars for work of more than two seconds.

        Raises:
            fedjax_rec.storage.errors.FileError: the backbone cannot be loaded.
        """
        from fedjax_rec.backbones import Unreachable, load_backbone

        options: dict[str, Any] = {
            "dtype": self.dtype,
            "max_tokens": self.max_tokens or None,
            "cache": self.cache,
            "progress": progress,
        }
        try:
            return *load_backbone(self.path or self.name, **options), ""
        except Unreachable as error:
            if not self.or_tiny:
                raise
            warning = (
                f"tiny replaces {self.name}, which could not be fetched; its figures "
                f"say nothing about {self.name}. {error}"
            )
        logging.getLogger(__name__).warning("%s", warning)
        return *load_backbone("tiny", **options), warning
