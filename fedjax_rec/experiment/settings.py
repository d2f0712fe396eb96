"""An experiment as frozen dataclasses. Importing this module loads no heavy package."""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any, Literal

from etils import epy

from fedjax_rec.algorithms.implicit import PFedRec
from fedjax_rec.backbones.settings import BackboneConfig
from fedjax_rec.core.checks import check_choice, check_type
from fedjax_rec.core.optimizers import check_numbers
from fedjax_rec.data.partition.units import PerUser
from fedjax_rec.data.settings import SyntheticData
from fedjax_rec.data.splits.settings import LeaveOneOut
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.experiment import registry
from fedjax_rec.fleet.cohorts import AllClients
from fedjax_rec.fleet.devices import FleetConfig

with epy.lazy_imports():
    import jax

    from fedjax_rec.simulation import mesh as meshes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How the program runs; results change by rounding at most.

    Attributes:
        examples_per_chunk: padded examples of one `vmap`; 0 chooses.
        max_buckets: largest number of size buckets. Each is compiled, about 3 s on 2
            CPU cores, and saves padding: on ML-100K, padding is 62 % with 4 buckets,
            36 % with 6 and 26 % with 8.
        user_chunk: users scored at once.
        encode: encode items' texts `once` a round for all clients, `per_client`, or
            `auto`: once if that is exact and less work.
        prefix_cache: run layers before the adapted ones once, not every time.
        dtype: type of the parameters; float64 needs `JAX_ENABLE_X64=1`.
        precision: precision of float32 products on an accelerator. JAX's `default`
            reads 8 to 11 bits of each factor, so that rounding decides ranks.
    """

    examples_per_chunk: int = 0
    max_buckets: int = 6
    user_chunk: int = 64
    encode: Literal["auto", "once", "per_client"] = "auto"
    prefix_cache: bool = True
    dtype: Literal["float32", "float64"] = "float32"
    precision: Literal["highest", "high", "default"] = "highest"

    def __post_init__(self) -> None:
        check_numbers(self, ("max_buckets", "user_chunk"))
        check_choice(self, "encode", ("auto", "once", "per_client"))
        check_choice(self, "dtype", ("float32", "float64"))
        check_choice(self, "precision", ("highest", "high", "default"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The devices of a run. Their number changes results by rounding only.

    Attributes:
        devices: number of devices; 0 is all there are (on a CPU one per core).
        model: devices that hold a large backbone together, each a part of its weights.
        items: devices that hold large item tables together, each a part of the rows.
    """

    devices: int = 0
    model: int = 1
    items: int = 1

    def __post_init__(self) -> None:
        check_numbers(self, ("model", "items"))
        if self.model > 1 and self.items > 1:
            raise ValueError(
                f"mesh.model={self.model} and mesh.items={self.items}: split either "
                "the backbone or the item tables"
            )

    def build(self) -> jax.sharding.Mesh:
        """The mesh.

        Raises:
            ValueError: there are fewer devices.
        """
        return meshes.make_mesh(self.devices, max(self.model, self.items))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where clients' data and personal state are kept between rounds.

    Attributes:
        location: on the `device`; on the `host`, from which each round copies its
            cohort while the one before computes; on `disk`, as memory maps of the host;
            or `auto`: on the device if they take less than half of its memory.
        folder: parent of the folder of the memory maps, which each run has for itself
            and removes at its end; by default the system's folder of temporary files.
        cache: keep prepared data, split and partition in the cache, for the next run
            and for the other processes of this one.
    """

    location: Literal["auto", "device", "host", "disk"] = "auto"
    folder: str = ""
    cache: bool = True

    def __post_init__(self) -> None:
        check_choice(self, "location", ("auto", "device", "host", "disk"))
        if self.folder and self.location != "disk":
            raise ValueError(
                f"folder={self.folder!r} is read only with location='disk', got "
                f"location={self.location!r}. Choose 'disk', or leave the folder empty"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a result.

    The kinds of every part are in `experiment/registry.py`; an object with the same
    methods works as well.

    Attributes:
        name: names the run folder.
        data: source of the interactions.
        split: train, validation, test.
        partition: the training interactions of each client.
        algorithm: the federated system, with its hyperparameters.
        backbone: the frozen foundation model, for algorithms that have one.
        wrapper: turns the system into another one; `None` leaves it.
        aggregation: rule that joins the clients' deltas; `None` is the algorithm's own.
        codec: shrinks messages to the server; `None` sends deltas as they are.
        attack: Byzantine behaviour of some clients; `None` if all are honest.
        cohort: clients of a round.
        fleet: assumed devices of the clients, for costs and availability.
        protocol: evaluation protocol.
        execution: how the program runs.
        mesh: devices of the run.
        store: where clients' data and personal state are kept.
        rounds: number of rounds.
        eval_every: rounds between evaluations.
        seed: seed of initial values, negatives, orders and cohorts.
    """

    name: str
    data: Any = dataclasses.field(default_factory=SyntheticData)
    split: Any = dataclasses.field(default_factory=LeaveOneOut)
    partition: Any = dataclasses.field(default_factory=PerUser)
    algorithm: Any = dataclasses.field(default_factory=PFedRec)
    backbone: Any = dataclasses.field(default_factory=BackboneConfig)
    wrapper: Any = None
    aggregation: Any = None
    codec: Any = None
    attack: Any = None
    cohort: Any = dataclasses.field(default_factory=AllClients)
    fleet: FleetConfig = dataclasses.field(default_factory=FleetConfig)
    protocol: Protocol = dataclasses.field(default_factory=Protocol)
    execution: Execution = dataclasses.field(default_factory=Execution)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    store: StoreConfig = dataclasses.field(default_factory=StoreConfig)
    rounds: int = 100
    eval_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check_parts(self)
        for field in ("rounds", "eval_every"):
            value = getattr(self, field)
            if value < 1:
                raise ValueError(f"{field} must be at least 1, got {value}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2**32), got {self.seed}")


_METHODS = {
    "data": ("load",),
    "split": ("split",),
    "partition": ("partition",),
    "backbone": ("load",),
    "cohort": ("slots", "build", "check", "describe"),
}
"""Methods of the parts of an experiment; all others have `build`."""


def _check_parts(settings: Any, prefix: str = "") -> None:
    """Raises a TypeError for parts that are no settings of their field."""
    hints = _hints(type(settings))
    for field in dataclasses.fields(settings):
        path, value = f"{prefix}{field.name}", getattr(settings, field.name)
        slot = registry.slot_of(path) if field.type in (Any, "Any") else None
        if slot is not None and not (value is None and slot in registry.OPTIONAL):
            _check_part(path, slot, value, type(settings))
        if dataclasses.is_dataclass(value):
            _check_parts(value, f"{path}.")
        elif type(value) in (list, dict, set):
            raise TypeError(
                f"{path}={value!r} is a {type(value).__name__}, which cannot be hashed "
                "as settings are: use a tuple"
            )
        else:
            check_type(path, value, hints.get(field.name, Any))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Types of the fields; empty if one has a name for type checkers only."""
    try:
        return typing.get_type_hints(cls)
    except NameError:
        return {}


def _check_part(path: str, slot: str, value: Any, owner: type) -> None:
    if isinstance(value, type):
        raise TypeError(f"{path}={value.__name__} is a class: call {value.__name__}()")
    if not dataclasses.is_dataclass(value):
        kinds = {k: w.rpartition(":")[2] for k, w in registry.SLOTS[slot].items()}
        named = kinds.get(str(value).lower().replace("-", "_"))
        raise TypeError(
            f"{path}={value!r}: expected a dataclass of settings, such as "
            f"{f'{named}()' if named else ', '.join(kinds.values())}"
        )
    location = registry.location_of(type(value))
    known = location in registry.kinds()
    if "." in path:  # a part of the user's own may be followed by any kind
        known = known and registry.location_of(owner) in registry.kinds()
    if known and location not in registry.SLOTS[slot].values():
        slots = [
            name
            for name, kinds in registry.SLOTS.items()
            if location in kinds.values() and "." not in name
        ]
        raise TypeError(
            f"{path}={type(value).__name__}(...) is a kind of {' and '.join(slots)}; "
            f"expected one of {', '.join(registry.SLOTS[slot])}"
        )
    methods = _METHODS.get(path, () if "." in path else ("build",))
    missing = [name for name in methods if not hasattr(value, name)]
    if missing:
        raise TypeError(
            f"{path}={type(value).__name__}(...) has no method {', '.join(missing)}; "
            f"expected {', '.join(methods)}"
        )
