"""Settings that choose the clients of a round; JAX loads only with `build`."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from etils import epy

with epy.lazy_imports():
    from fedjax_rec.fleet import availability, sampling

if TYPE_CHECKING:
    from fedjax_rec.core.rounds import Sampler
    from fedjax_rec.fleet.costs import Fleet
    from fedjax_rec.fleet.devices import FleetConfig


class Cohort:
    """Base of the settings. A cohort of your own needs `slots` and `build`."""

    def slots(self, num_clients: int) -> int:
        """Number of slots in a round, `C`; some may stay empty."""
        raise NotImplementedError

    def build(self, fleet: Fleet) -> Sampler:
        """The sampler, for a population on its devices.

        Raises:
            ValueError: the population is too small for these cohorts.
        """
        raise NotImplementedError

    def check(self, fleet: FleetConfig) -> None:
        """Raises a ValueError if the cohort does not fit the devices."""

    def describe(self, fleet: Fleet) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Facts for the result, and sentences for the start of a run."""
        return {}, ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sized(Cohort):
    """A cohort with a number of slots that its settings give."""

    size: int = 256

    def __post_init__(self) -> None:
        _check_positive(self, "size")

    def slots(self, num_clients: int) -> int:
        return self.size


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllClients(Cohort):
    """Every client in every round."""

    def slots(self, num_clients: int) -> int:
        return num_clients

    def build(self, fleet: Fleet) -> Sampler:
        return sampling.everyone(len(fleet.examples))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(_Sized):
    """Clients drawn uniformly without replacement.

    Attributes:
        size: number of clients in a round.
    """

    def build(self, fleet: Fleet) -> Sampler:
        return sampling.uniform(len(fleet.examples), self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Poisson(_Sized):
    """Each client independently with the same probability.

    Attributes:
        size: expected number of clients in a round.
    """

    def slots(self, num_clients: int) -> int:
        return min(num_clients, math.ceil(self.size + 4 * self.size**0.5))

    def build(self, fleet: Fleet) -> Sampler:
        n = len(fleet.examples)
        return sampling.poisson(n, self.size, self.slots(n))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighted(_Sized):
    """Clients drawn without replacement, in proportion to their number of examples.

    Attributes:
        size: number of clients in a round.
    """

    def build(self, fleet: Fleet) -> Sampler:
        return sampling.weighted(fleet.examples, self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Available(_Sized):
    """Clients drawn uniformly from those available at the round's hour.

    Attributes:
        size: number of clients that count in a round.
        over_selection: `over_selection * size` clients are invited; the first `size`
            to arrive count, and the work of the others is lost.
        rounds_per_day: number of rounds in a day; round 0 is at midnight.
        trace: CSV file with the header `device,hour,availability` (local hours 0 to 23
            of every device class) that replaces the curves of the device classes.
    """

    over_selection: float = 1.0
    rounds_per_day: int = 96
    trace: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "rounds_per_day")
        if not 1 <= self.over_selection < math.inf:
            raise ValueError(
                f"over_selection must be at least 1, got {self.over_selection}"
            )

    def check(self, fleet: FleetConfig) -> None:
        if self.trace is not None:
            availability.read_trace(self.trace, fleet.devices)

    def build(self, fleet: Fleet) -> Sampler:
        n, presence = len(fleet.examples), self._presence(fleet)
        sampling.check_size(n, self.size)
        if not presence.expected(fleet.able).max() > 0:
            raise ValueError(
                f"no client is ever available: {int(fleet.able.sum())} of {n} clients "
                "have training examples and a device with enough memory; raise "
                "memory_mb or peak of the device classes"
            )
        return availability.available(
            presence, fleet.able, self.size, self.over_selection
        )

    def describe(self, fleet: Fleet) -> tuple[dict[str, Any], tuple[str, ...]]:
        expected = self._presence(fleet).expected(fleet.able)
        least, most = float(expected.min()), float(expected.max())
        invited = self.size * self.over_selection
        sentences = (
            f"of {len(fleet.examples):,} clients {int(fleet.able.sum()):,} can train "
            f"on their device; {least:,.0f} to {most:,.0f} of them are expected to be "
            "available, depending on the hour",
            f"at the quietest hour that is fewer than the {invited:,.0f} invited: some "
            "slots stay empty then",
        )
        facts = {"available_least": least, "available_most": most}
        return facts, sentences[: 1 + (least < invited)]

    def _presence(self, fleet: Fleet) -> availability.Presence:
        return availability.make_presence(fleet, self.rounds_per_day, self.trace)


def _check_positive(cohort: Cohort, *names: str) -> None:
    for name in names:
        if getattr(cohort, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(cohort, name)}")
