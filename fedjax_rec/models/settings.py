"""Settings of the models of `FedAvg`."""

from __future__ import annotations

import dataclasses
from typing import Literal

from etils import epy

from fedjax_rec.core.checks import check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    from fedjax_rec.core import contracts
    from fedjax_rec.models import by_id

Users = Literal["personal", "table"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatrixFactorization:
    """`score(u, i) = P_u . Q_i`.

    Attributes:
        dim: width of user and item vectors.
        users: `personal` vectors that stay on the client, or a shared `table`, for
            clients that hold several users.
        init_scale: standard deviation of the initial vectors.

    References:
        Koren et al., Matrix Factorization Techniques for Recommender Systems,
        Computer 2009.
    """

    dim: int = 32
    users: Users = "personal"
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_settings(self, dim="[1, inf)", init_scale="[0, inf)")

    def build(self, context: Context) -> contracts.Model:
        """The model for a catalog."""
        table = self.users == "table"
        model = by_id.matrix_factorization(
            context.num_items,
            self.dim,
            num_users=context.num_users if table else None,
            init_scale=self.init_scale,
            dtype=context.dtype,
        )
        return model._replace(single_user=not table)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuralCF:
    """`score(u, i) = MLP([P_u, Q_i])`, with a shared MLP.

    Attributes:
        dim: width of user and item vectors.
        hidden: widths of the MLP's ReLU layers.
        users: as in `MatrixFactorization`.
        init_scale: standard deviation of the initial vectors.

    References:
        He et al., Neural Collaborative Filtering, WWW 2017.
    """

    dim: int = 32
    hidden: tuple[int, ...] = (32, 16, 8)
    users: Users = "personal"
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_settings(self, dim="[1, inf)", init_scale="[0, inf)")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden}")

    def build(self, context: Context) -> contracts.Model:
        """The model for a catalog."""
        table = self.users == "table"
        model = by_id.neural_cf(
            context.num_items,
            self.dim,
            self.hidden,
            num_users=context.num_users if table else None,
            init_scale=self.init_scale,
            dtype=context.dtype,
        )
        return model._replace(single_user=not table)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PersonalScorer:
    """`score(i) = w . V_i + b`, with a personal `w` and `b` instead of a user vector.

    Attributes:
        dim: width of item vectors.
        init_scale: standard deviation of the initial item vectors.

    References:
        Zhang et al., Dual Personalization on Federated Recommendation, IJCAI 2023.
    """

    dim: int = 32
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_settings(self, dim="[1, inf)", init_scale="[0, inf)")

    def build(self, context: Context) -> contracts.Model:
        """The model for a catalog."""
        return by_id.personal_scorer(
            context.num_items, self.dim, self.init_scale, context.dtype
        )
