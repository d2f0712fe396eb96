"""TEMPORARY: replaced by branch data."""

from __future__ import annotations

import dataclasses

from etils import epy

with epy.lazy_imports():
    import jax

    from fedjax_rec.core import keys
    from fedjax_rec.data import splits
    from fedjax_rec.data.splits import last


def _key(seed):
    return keys.derive(jax.random.key(seed), keys.Purpose.SPLIT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    ties: str = "file_order"

    def split(self, data):
        return splits.leave_one_out(data, ties=self.ties)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveLast:
    count: int = 1

    def split(self, data):
        return last.leave_last(data, count=self.count)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio:
    val: float = 0.1
    test: float = 0.1

    def split(self, data):
        return splits.ratio(data, val=self.val, test=self.test)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalTime:
    val: float = 0.1
    test: float = 0.1

    def split(self, data):
        return splits.global_time(data, val=self.val, test=self.test)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColdItems:
    val: float = 0.1
    test: float = 0.1
    seed: int = 0

    def split(self, data):
        return splits.cold_items(
            data, fraction=self.test, val_fraction=self.val, key=_key(self.seed)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColdUsers:
    val: float = 0.1
    test: float = 0.1
    seed: int = 0

    def split(self, data):
        return splits.cold_users(
            data, fraction=self.test, val_fraction=self.val, key=_key(self.seed)
        )
