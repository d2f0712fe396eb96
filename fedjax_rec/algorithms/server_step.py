"""Groups that the server takes as the aggregator gives them."""

from collections.abc import Collection

import optax


def except_for(
    names: Collection[str], optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Moves the groups `names` by their delta, and all others by `optimizer`.

    The aggregate of some groups is where they go, not a direction to go in.

    Args:
        names: of groups; those that are not there are passed over.
        optimizer: of the pseudo-gradient, the negated delta.
    """
    return optax.partition(
        {"moved": optimizer, "given": optax.scale(-1.0)},
        lambda tree: {name: "given" if name in names else "moved" for name in tree},
    )
