"""The user side of FedFM: a personal vector, attention over the history, or both."""

import dataclasses
from typing import ClassVar, Literal

from fedjax_rec.core.optimizers import check_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserVector:
    """A vector for each user, which stays on the client."""

    kind: ClassVar[Literal["vector"]] = "vector"
    length: ClassVar[int] = 1
    heads: ClassVar[int] = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """Attention over the last items of a user; serves users not seen in training.

    Attributes:
        length: number of items.
        heads: heads of the attention.
    """

    length: int = 20
    heads: int = 4

    kind: ClassVar[Literal["history", "both"]] = "history"

    def __post_init__(self) -> None:
        check_numbers(self, ("length", "heads"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorAndHistory(History):
    """The sum of a user's vector and attention over the last items.

    Attributes:
        length: number of items.
        heads: heads of the attention.
    """

    kind: ClassVar[Literal["history", "both"]] = "both"
