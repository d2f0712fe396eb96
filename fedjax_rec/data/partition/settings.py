"""TEMPORARY: replaced by branch data."""

from __future__ import annotations

import dataclasses

from etils import epy

with epy.lazy_imports():
    import jax

    from fedjax_rec.core import keys
    from fedjax_rec.data import partition as p


def _key(seed):
    return keys.derive(jax.random.key(seed), keys.Purpose.PARTITION)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerUser:
    def partition(self, train):
        return p.per_user(train)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IID:
    num_clients: int = 100
    seed: int = 0

    def partition(self, train):
        return p.iid(_key(self.seed), train, self.num_clients)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dirichlet:
    num_clients: int = 100
    alpha: float = 0.5
    label: str = ""
    seed: int = 0

    def partition(self, train):
        return p.dirichlet(
            _key(self.seed),
            train,
            p.labels_of(train, self.label or None),
            self.num_clients,
            alpha=self.alpha,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantitySkew:
    num_clients: int = 100
    exponent: float = 1.5
    seed: int = 0

    def partition(self, train):
        return p.quantity_skew(
            _key(self.seed), train, self.num_clients, exponent=self.exponent
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shards:
    num_clients: int = 100
    shards_per_client: int = 2
    label: str = ""
    seed: int = 0

    def partition(self, train):
        return p.shards(
            _key(self.seed),
            train,
            p.labels_of(train, self.label or None),
            self.num_clients,
            shards_per_client=self.shards_per_client,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByAttribute:
    attribute: str = "region"

    def partition(self, train):
        return p.by_attribute(train, self.attribute)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    num_clients: int = 100
    alpha: float = 0.5
    label: str = ""
    seed: int = 0

    def partition(self, train):
        return p.drift(
            _key(self.seed),
            train,
            self.num_clients,
            labels=p.labels_of(train, self.label or None),
            alpha=self.alpha,
        )
