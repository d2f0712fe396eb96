"""Other rules and server steps for some groups of the shared parameters."""

from collections.abc import Callable, Collection
from typing import Any

import optax

from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator, Senders


def by_group(names: Collection[str], rule: Aggregator, rest: Aggregator) -> Aggregator:
    """One rule for some groups of the shared parameters, and one for all others.

    Args:
        names: the groups of `rule`; absent ones are ignored.
        rule: sees a dict of these groups.
        rest: sees a dict of all other groups; not used if there are none.

    Returns:
        An aggregator. It is not linear, because linearity matters only to code that
        treats all groups alike.
    """

    def split(tree: Tree) -> tuple[Tree, Tree]:
        chosen = {name: part for name, part in tree.items() if name in names}
        return chosen, {n: part for n, part in tree.items() if n not in names}

    def init(shared: Tree, cohort_size: int) -> Tree:
        chosen, others = split(shared)
        acc = rule.init(chosen, cohort_size)
        return acc, rest.init(others, cohort_size) if others else None

    def update(acc: Tree, deltas: Tree, weights: Array, senders: Senders) -> Tree:
        chosen, others = split(deltas)
        first, second = acc
        if second is not None:
            second = rest.update(second, others, weights, senders)
        return rule.update(first, chosen, weights, senders), second

    def finish(acc: Tree, state: Tree, shared: Tree):
        chosen, others = split(shared)
        (first, second), (first_state, second_state) = acc, state
        delta, info = {}, {}
        if second is not None:
            delta, second_state, info = rest.finish(second, second_state, others)
        part, first_state, more = rule.finish(first, first_state, chosen)
        return {**delta, **part}, (first_state, second_state), {**info, **more}

    def start(shared: Tree) -> Tree:
        chosen, others = split(shared)
        return rule.start(chosen), rest.start(others) if others else None

    def begin(acc: Tree, state: Tree) -> Tree:
        first, second = acc
        if second is not None:
            second = rest.begin(second, state[1])
        return rule.begin(first, state[0]), second

    return Aggregator(
        init,
        update,
        finish,
        start,
        begin=begin,
        coordinatewise=rule.coordinatewise or rest.coordinatewise,
        numbers=rule.numbers + rest.numbers,
    )


def unchanged(
    names: Collection[str], optimizer: Callable[[Tree], Any]
) -> Callable[[Tree], optax.GradientTransformation]:
    """Moves some groups by exactly their delta, and all others by an optimizer.

    The aggregate of such a group is its new value, not a direction.

    Args:
        names: groups; absent ones are ignored.
        optimizer: `(hparams) -> transformation` of the pseudo-gradient, the negated
            delta.
    """

    def build(hparams: Tree) -> optax.GradientTransformation:
        return optax.partition(
            {"moved": optimizer(hparams), "set": optax.scale(-1.0)},
            lambda tree: {n: "set" if n in names else "moved" for n in tree},
        )

    return build
