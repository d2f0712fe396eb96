"""Facts about an experiment that its parts are built from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from fedjax_rec.core.backbone import Backbone
    from fedjax_rec.core.contracts import Recipe


class Corpus(Protocol):
    """The items' texts and the frozen backbone that reads them, loaded on first use.

    Attributes:
        texts: one text per item, `[I]`.
        backbone: the backbone.
        weights: its array tree.
        tokens: the texts as `packing.Lists`.
        prefix_cache: layers before the adapted ones are run only once.
        facts: about backbone and texts, for `result.json`.
    """

    @property
    def texts(self) -> list[str]: ...
    @property
    def backbone(self) -> Backbone: ...
    @property
    def weights(self) -> Any: ...
    @property
    def tokens(self) -> Any: ...
    @property
    def prefix_cache(self) -> bool: ...
    @property
    def facts(self) -> dict[str, Any]: ...

    def embeddings(self) -> np.ndarray:
        """Vectors of the texts by the frozen backbone, `[I, D]` float32."""
        ...

    def hidden(self, layers: int, *, to_last_map: bool = False) -> Any:
        """Token states `packing.Lists` after the first `layers` layers."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """Facts about an experiment.

    Attributes:
        num_items: `I`.
        num_users: `U`.
        num_clients: `N`.
        cohort_size: `C`, slots of a round.
        dtype: type of trained parameters.
        examples: `[N]` training interactions of each client.
        split: `data.splits.Split` with train, validation and test.
        clients: `data.clients.ClientData` of all clients, as NumPy arrays.
        pool: item ids that training may see; `None` for all.
        corpus: texts and backbone; `None` if the data have none.
        recipe: the system so far, for parts that change one; the algorithm has none.
        lora_base: adapters need the dense correction of `LORA_BASE`.
    """

    num_items: int
    num_users: int
    num_clients: int
    cohort_size: int
    dtype: Any
    examples: np.ndarray
    split: Any = None
    clients: Any = None
    pool: np.ndarray | None = None
    corpus: Corpus | None = None
    recipe: Recipe | Any = None
    lora_base: bool = False

    def with_recipe(self, recipe: Recipe) -> Context:
        """The same facts with the system so far."""
        return dataclasses.replace(self, recipe=recipe)


class Part(Protocol):
    """A frozen dataclass of settings that builds a part from a `Context`.

    An algorithm, a wrapper and an attack build a `Recipe`; an aggregation rule builds
    an `Aggregator`, a codec a `MessageTransform`. All but an algorithm find the system
    so far in `context.recipe`. An algorithm or a wrapper may have the class attribute
    `brings`, the fields of an experiment that it determines itself (`aggregation`,
    `codec`), and a wrapper `lora_base`, see `Context`.
    """

    build: Callable[[Context], Any]
