"""CoLR: item tables are trained and sent in a random basis that all clients share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from etils import epy

from fedjax_rec.codecs.quantize import Float32
from fedjax_rec.core.context import Context
from fedjax_rec.core.optimizers import check_numbers

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.codecs import leaves, wire
    from fedjax_rec.core import contracts, messages, orthogonal, rows

Bases = Callable[[Any], dict[str, Any]]
"""`(round_key) -> {table: [r, d]}`, orthonormal rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoLR:
    """Trains item tables along `rank` random directions, and sends coordinates in them.

    The orthonormal directions are drawn anew in each round, the same for all clients.
    As published, every row of a table is sent, `I x rank` numbers.

    It has not been shown to help here: at equal bytes it lost more quality than SVD and
    top-k in every comparison (docs/codecs.md). In its favour, messages add up without
    being read, and clients need no state.

    Attributes:
        rank: number of directions, at most the width of an item row.
        touched_only: send only the rows that a client touched, with their ids.

    References:
        Nguyen et al., Towards Efficient Communication and Secure Federated
        Recommendation System via Low-rank Training, WWW 2024.
    """

    rank: int = 4
    touched_only: bool = False

    brings: ClassVar = ("codec",)

    def __post_init__(self) -> None:
        check_numbers(self, ("rank",))

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps `context.recipe`.

        Raises:
            ValueError: local training does not step along a basis, clients have a
                message transform, or there is no item table of at least `rank` columns.
        """
        recipe = context.recipe
        if recipe.transform is not None:
            raise ValueError(
                "CoLR sends messages of its own, and this system has a message "
                "transform: expected codec=None"
            )
        if not recipe.local.corrections:
            raise ValueError(
                "CoLR needs local training by plain SGD on item rows that can follow a "
                "basis: expected client_optimizer=SGD() without a proximal term, and "
                "no other wrapper"
            )
        bases = self._bases(recipe.model)
        train: Callable = recipe.client_update

        def update(params, frozen, examples, hparams, key):
            # Tuning after a round sends nothing: it has no round key and no basis.
            if "round_key" not in hparams:
                return train(params, frozen, examples, hparams, key)
            correction = contracts.Correction(basis=bases(hparams["round_key"]))
            return train(params, frozen, examples, hparams, key, correction=correction)

        return recipe._replace(
            client_update=update,
            local=recipe.local._replace(corrections=False),
            transform=coordinates(bases, touched_only=self.touched_only),
        )

    def _bases(self, model: contracts.Model) -> Bases:
        shared = jax.eval_shape(model.init, jax.random.key(0)).shared
        sent = {name: x for name, x in shared.items() if name not in model.fixed}
        tables = {
            name: leaf.values
            for name, leaf in sorted(sent.items())
            if rows.is_table(leaf) and leaf.space == "item" and leaf.values.ndim == 2
        }
        if not tables:
            raise ValueError(
                "CoLR sends the coordinates of an item table, and this model shares "
                f"none; it shares {', '.join(sent) or 'no group'}"
            )
        for name, values in tables.items():
            if self.rank > values.shape[1]:
                raise ValueError(
                    f"rank={self.rank} is more than the width {values.shape[1]} of the "
                    f"table {name!r}"
                )

        def bases(round_key):
            keys = jax.random.split(round_key, len(tables))
            return {
                name: orthogonal.random_rows(key, self.rank, x.shape[1], x.dtype)
                for key, (name, x) in zip(keys, tables.items(), strict=True)
            }

        return bases


def coordinates(bases: Bases, *, touched_only: bool = False):
    """Message transform that sends the coordinates of tables in their bases.

    Exact for tables trained by steps in that basis (`Correction.basis`); others are
    projected onto it. Groups without a basis are sent as they are.

    Args:
        bases: bases of tables among the shared parameters.
        touched_only: send no rows that a client did not touch.
    """
    plain = leaves.leafwise(Float32().link())

    def inside(part, basis):
        part, num_rows, _ = leaves.in_order(part)
        part = rows.map_values(lambda x: x @ basis.T, part)
        every = jnp.zeros((num_rows, len(basis)), part.values.dtype)
        every = every.at[part.ids].set(part.values, mode="drop")
        return part, wire.floats(every.reshape(-1), every.size)

    def encode(delta, state, sender):
        basis_of = bases(sender.round_key)
        results = {name: inside(delta[name], basis_of[name]) for name in basis_of}
        parts = {name: part for name, (part, _) in results.items()}
        message = {"bases": basis_of}
        if not touched_only:
            message["every"] = {name: every for name, (_, every) in results.items()}
            # All rows are sent; the others are zero, and the server need not add them.
            message["touched"] = parts
            delta = {name: x for name, x in delta.items() if name not in parts}
            parts = {}
        message["sent"] = plain.encode({**delta, **parts}, (), sender)[0]
        return message, state

    def decode(message):
        delta = {**plain.decode(message["sent"]), **message.get("touched", {})}
        for name, basis in message["bases"].items():
            part = delta[name]
            delta[name] = rows.map_values(lambda x, basis=basis: x @ basis, part)
        return delta

    return messages.MessageTransform(lambda shared: (), encode, decode, every_row=True)
