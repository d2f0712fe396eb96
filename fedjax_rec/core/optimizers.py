"""Settings of client and server optimizers.

`traced` names the fields that a recipe passes as arrays, so that a sweep over them
shares one program.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from etils import epy

with epy.lazy_imports():
    import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Settings with an `optax` transformation.

    Class attributes: `traced`, the fields that may be arrays; for local steps also
    `states`, the numbers kept for each trained one, and `momentum`, that of SGD or
    `None` for another optimizer.
    """

    traced: ClassVar[tuple[str, ...]] = ("lr",)

    def __post_init__(self) -> None:
        check_numbers(self)

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent.

    Attributes:
        lr: learning rate.
    """

    lr: float = 1.0

    states: ClassVar = 0
    momentum: ClassVar = 0.0

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.sgd(self.lr)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Momentum(Optimizer):
    """SGD with momentum 0.9, for local steps.

    Attributes:
        lr: learning rate.
    """

    lr: float = 0.1

    states: ClassVar = 1
    momentum: ClassVar = 0.9

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.sgd(self.lr, momentum=self.momentum)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam with optax's defaults, for local steps.

    Attributes:
        lr: learning rate.

    References:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015.
    """

    lr: float = 1e-3

    states: ClassVar = 2
    momentum: ClassVar = None

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.adam(self.lr)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """Adagrad with optax's defaults, for local steps.

    Attributes:
        lr: learning rate.

    References:
        Duchi, Hazan and Singer, Adaptive Subgradient Methods, JMLR 2011.
    """

    lr: float = 0.1

    states: ClassVar = 1
    momentum: ClassVar = None

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.adagrad(self.lr)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedAvgM(Optimizer):
    """Server SGD with momentum.

    Attributes:
        lr: learning rate.
        momentum: momentum.

    References:
        Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution for
        Federated Visual Classification, 2019.
    """

    lr: float = 1.0
    momentum: float = 0.9

    traced: ClassVar[tuple[str, ...]] = ("lr", "momentum")

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.sgd(self.lr, momentum=self.momentum)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedAdam(Optimizer):
    """Server Adam with `beta_2 = 0.99`.

    It is optax's. Algorithm 2 of the paper starts `v` at `tau^2` or more and corrects
    no bias, whereas `m` and `v` start at 0 here, and their bias is corrected; so the
    paper's tuned rates do not carry over.

    Attributes:
        lr: learning rate.
        momentum: `beta_1`.
        tau: adaptivity, added to the denominator.

    References:
        Reddi et al., Adaptive Federated Optimization, ICLR 2021.
    """

    lr: float = 1e-2
    momentum: float = 0.9
    tau: float = 1e-3

    traced: ClassVar[tuple[str, ...]] = ("lr", "momentum", "tau")

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.adam(self.lr, b1=self.momentum, b2=0.99, eps=self.tau)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedYogi(FedAdam):
    """Server Yogi with `beta_2 = 0.99`.

    It is optax's, which starts `v` at 1e-6 and corrects the bias, see `FedAdam`.

    Attributes:
        lr: learning rate.
        momentum: `beta_1`.
        tau: adaptivity, added to the denominator.

    References:
        Reddi et al., Adaptive Federated Optimization, ICLR 2021.
    """

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.yogi(self.lr, b1=self.momentum, b2=0.99, eps=self.tau)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedAdagrad(Optimizer):
    """Server Adagrad without momentum.

    It is optax's, which starts `v` at 0.1 and adds `tau` under the root.

    Attributes:
        lr: learning rate.
        tau: adaptivity.

    References:
        Reddi et al., Adaptive Federated Optimization, ICLR 2021.
    """

    lr: float = 1e-2
    tau: float = 1e-3

    traced: ClassVar[tuple[str, ...]] = ("lr", "tau")

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.adagrad(self.lr, eps=self.tau)


def hparams_of(optimizer: Any, name: str) -> dict[str, float]:
    """Traced scalars of an optimizer, by their dotted names below `name`."""
    return {f"{name}.{field}": getattr(optimizer, field) for field in optimizer.traced}


def with_hparams(
    optimizer: Any, name: str, hparams: Mapping[str, Any]
) -> optax.GradientTransformation:
    """The transformation with the scalars of `hparams_of` as they are in `hparams`."""
    traced = copy.copy(optimizer)  # arrays do not pass `__post_init__`
    for field in vars(optimizer):
        vars(traced)[field] = hparams.get(f"{name}.{field}", vars(optimizer)[field])
    return traced.build()


def check_numbers(settings: Any, positive: tuple[str, ...] = ()) -> None:
    """Raises a ValueError for numbers that are negative or not finite.

    Args:
        settings: a dataclass.
        positive: fields that must not be below 1.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"{field.name} must be finite and not negative, got {value}"
            )
        if field.name in positive and value < 1:
            raise ValueError(f"{field.name} must be at least 1, got {value}")
