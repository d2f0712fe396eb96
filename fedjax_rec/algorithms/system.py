"""A system of one's own from declared parameters, one score, one loss and rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from etils import epy

from fedjax_rec.core.checks import check_ranges
from fedjax_rec.core.context import Context
from fedjax_rec.models.declarative import Declarative
from fedjax_rec.models.declared import Parameter

with epy.lazy_imports():
    import jax
    import optax

    from fedjax_rec.aggregators import means
    from fedjax_rec.clients import local
    from fedjax_rec.core import contracts
    from fedjax_rec.data import pairs

REST = "*"
"""The rate of all groups without one of their own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class System(Declarative):
    """Base of systems with a score, a loss, and plain SGD on every client.

    A subclass is a frozen dataclass with `parameters` and `score`, and, if the
    defaults do not fit, `loss`, `rates` and `aggregator`.

    Class attributes: `phases`, tuples of parameter names: each batch takes a step on
    the first, then on the second, and so on (empty: one step on all); `ratings`, train
    on the ratings of the data and draw no negatives.

    Attributes:
        client_lr: learning rate of the parameters that `rates` does not name.
        batch_size: pairs of a step.
        local_epochs: passes over the pairs in a round.
        negatives: negatives per positive.
    """

    client_lr: float = 0.1
    batch_size: int = 256
    local_epochs: int = 1
    negatives: int = 4

    phases: ClassVar[tuple[tuple[str, ...], ...]] = ()
    ratings: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_ranges(
            self,
            client_lr="[0, inf)",
            batch_size="[1, inf)",
            local_epochs="[1, inf)",
            negatives="[0, inf)",
        )

    def rates(self) -> dict[str, Any]:
        """Learning rates by parameter; `"*"` is that of all others.

        The server averages over all clients of a round, so that a row of an item that
        few of them hold moves little: item rates are large.
        """
        return {REST: self.client_lr}

    def aggregator(self, context: Context) -> contracts.Aggregator:
        """The rule unless the experiment has one: the mean, all clients counting the
        same."""
        return means.weighted_mean(uniform=True)

    def build(self, context: Context) -> contracts.Recipe:
        """The recipe for a catalog.

        Raises:
            ValueError: a declaration, a rate or a phase does not fit the parameters.
        """
        model, declared = self.declared_model(context), self.parameters()
        hparams = self.hparams
        phases = self.phases or (tuple(declared),)
        named = set(self.with_traced(dict.fromkeys(hparams, 1.0)).rates())
        self._check(set(declared), named, phases)

        def rates(h: dict[str, Any]) -> dict[str, Any]:
            rate = self.with_traced({name: h[name] for name in hparams}).rates()
            return {name: rate.get(name, rate.get(REST)) for name in declared}

        negatives = 0 if self.ratings else self.negatives
        draw = _with_ids(
            pairs.explicit_pairs()
            if self.ratings
            else pairs.implicit_pairs(context.num_items, negatives)
        )
        size, epochs = self.batch_size, self.local_epochs
        dense_rate, row_rate = _common_rates(declared, named, rates)
        return contracts.Recipe(
            model=model,
            client_update=local.local_update(
                model,
                draw,
                tuple(_phase(names, declared, rates) for names in phases),
                batch_size=size,
                epochs=epochs,
            ),
            aggregator=self.aggregator(context),
            server_optimizer=lambda h: optax.sgd(1.0),
            hparams=hparams,
            local=contracts.Local(
                draw=draw,
                negatives=negatives,
                predicts_ratings=self.ratings,
                epochs=epochs,
                batch_size=size,
                steps=local.local_steps(size, epochs, 1 + negatives),
                rate=dense_rate,
                row_rate=row_rate,
                corrections=dense_rate is not None and row_rate is not None,
            ),
        )

    def _check(
        self, declared: set[str], rated: set[str], phases: tuple[tuple[str, ...], ...]
    ) -> None:
        where = type(self).__name__
        trained = {name for phase in phases for name in phase}
        for what, names in (("rates()", rated - {REST}), ("phases", trained)):
            if unknown := sorted(names - declared):
                raise ValueError(
                    f"{where}.{what} names {', '.join(unknown)}; parameters() declares "
                    f"{', '.join(sorted(declared))}"
                )
        if left := sorted(declared - trained):
            raise ValueError(
                f"{where}.phases leaves out {', '.join(left)}, which would not be "
                "trained: add them to a phase; a rate of 0 keeps a parameter"
            )
        if REST not in rated and (missing := sorted(trained - rated)):
            raise ValueError(
                f"{where}.rates() has no rate for {', '.join(missing)}: name them, or "
                f"add {REST!r} for all others"
            )


def _common_rates(
    declared: dict[str, Parameter],
    rated: set[str],
    rates: Callable[[Any], dict[str, Any]],
) -> list[Callable[[Any], Any] | None]:
    """Rates of all shared dense groups and of all shared tables, if they agree."""
    common = []
    for tables in (False, True):
        names = [
            name
            for name, p in declared.items()
            if not p.personal and (p.rows is not None and not p.whole) == tables
        ]
        entries = {name if name in rated else REST for name in names}
        one = names[0] if names else next(iter(declared))
        agree = len(entries) <= 1
        common.append((lambda h, one=one: rates(h)[one]) if agree else None)
    return common


def _phase(
    names: tuple[str, ...],
    declared: dict[str, Parameter],
    rates: Callable[[Any], dict[str, Any]],
) -> local.Phase:
    """One step of plain SGD, with a rate for each group."""
    tables = [n for n in names if declared[n].rows and not declared[n].whole]

    def descent(h: Any) -> optax.GradientTransformation:
        rate = rates(h)

        def update(grads, state, params=None):
            return {
                name: jax.tree.map(lambda g, name=name: -rate[name] * g, part)
                for name, part in grads.items()
            }, state

        made: Any = update  # a transformation of a dict of groups only
        return optax.GradientTransformation(lambda params: optax.EmptyState(), made)

    def row_rate(h: Any) -> dict[str, Any]:
        rate = rates(h)
        return {name: rate[name] for name in tables}

    return local.Phase(descent, names=names, row_rate=row_rate)


def _with_ids(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Pairs with ids that stay ids where rows are gathered."""

    def drawn(examples: Any, key: Any) -> Any:
        columns = draw(examples, key)
        return {**columns, "item_id": columns["item"], "user_id": columns["user"]}

    return drawn
