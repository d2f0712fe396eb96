"""Random assignments of units to clients: pure, compiled functions of a key."""

import functools

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array


@functools.partial(jax.jit, static_argnames=("num_units", "num_clients"))
def assign_uniform(key: Array, *, num_units: int, num_clients: int) -> Array:
    """Shuffles the units and deals them to the clients in turn.

    Args:
        key: Typed key.
        num_units: Number of units.
        num_clients: `N`.

    Returns:
        `[num_units]` int32 clients.

    >>> clients = assign_uniform(jax.random.key(0), num_units=5, num_clients=2)
    >>> jnp.bincount(clients).tolist()
    [3, 2]
    """
    return jax.random.permutation(key, num_units).astype(jnp.int32) % num_clients


@functools.partial(jax.jit, static_argnames=("num_units", "num_clients"))
def assign_power_law(
    key: Array, exponent: float | Array, *, num_units: int, num_clients: int
) -> Array:
    """Gives client `c` one unit, and a share `~ (c + 1) ** -exponent` of the others.

    Args:
        key: Typed key, which decides the units of each client but not their number.
        exponent: 0 makes all clients equally large.
        num_units: Number of units, at least `num_clients`.
        num_clients: `N`.

    Returns:
        `[num_units]` int32 clients.
    """
    rank = jnp.arange(1, num_clients + 1, dtype=jnp.int32)
    share = jnp.cumsum(rank.astype(jnp.float32) ** -jnp.float32(exponent))
    extra = jnp.round(share / share[-1] * (num_units - num_clients)).astype(jnp.int32)
    # Rounding of large counts must not lose units: the last client ends at the end.
    ends = (extra + rank).at[-1].set(num_units)
    place = jax.random.permutation(key, num_units)
    return jnp.searchsorted(ends, place, side="right").astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("num_labels", "num_clients"))
def assign_dirichlet(
    key: Array,
    labels: Array,
    alpha: float | Array,
    *,
    num_labels: int,
    num_clients: int,
) -> Array:
    """Clients draw label mixtures `q ~ Dir(alpha p)` and take units by them in turn.

    `p` are the shares of the labels. A label without units left drops out of the
    mixtures; a client without any label left draws from the remaining units. Hsu
    et al. fill one client after another, which leaves the remainders to the last ones.

    The turns are a `scan` with one step per unit, about a microsecond each on a CPU.

    Args:
        key: Typed key.
        labels: `[n]` int32 in `[0, num_labels)`.
        alpha: Concentration: towards 0 one label per client, towards infinity `p`.
        num_labels: `L`.
        num_clients: `N`.

    Returns:
        `[n]` int32 clients; their sizes differ by at most one.
    """
    n = labels.shape[0]
    mixture_key, turn_key, order_key = jax.random.split(key, 3)
    counts = jnp.bincount(labels, length=num_labels)
    # Labels that do not occur need some concentration, but are never taken.
    concentration = jnp.maximum(alpha * counts / n, 1e-6).astype(jnp.float32)
    shape = (num_clients,)
    mixtures = jax.random.dirichlet(mixture_key, concentration, shape, jnp.float32)
    turns = jnp.arange(n, dtype=jnp.int32) % num_clients

    def take(left: Array, turn: tuple[Array, Array]) -> tuple[Array, Array]:
        client, uniform = turn
        weight = jnp.where(left > 0, mixtures[client], 0)
        weight = jnp.where(weight.sum() > 0, weight, left)
        below = jnp.cumsum(weight)
        # Rounding must not push the target past the last label that has weight.
        target = jnp.minimum(uniform * below[-1], jnp.nextafter(below[-1], 0.0))
        label = jnp.argmax(below > target)
        return left.at[label].add(-1), label

    uniforms = jax.random.uniform(turn_key, (n,), jnp.float32)
    _, taken = jax.lax.scan(take, counts, (turns, uniforms))
    # The k-th unit of a label, in random order, goes to the k-th turn that took it.
    units = _sorted_by_label(order_key, labels)
    takers = turns[jnp.argsort(taken, stable=True)]
    return jnp.zeros(n, jnp.int32).at[units].set(takers)


@functools.partial(jax.jit, static_argnames=("num_clients", "shards_per_client"))
def assign_shards(
    key: Array, labels: Array, *, num_clients: int, shards_per_client: int
) -> Array:
    """Sorts by label, cuts into equal shards, and deals every client `S` of them.

    Args:
        key: Typed key, which shuffles within labels and deals the shards.
        labels: `[n]` int32.
        num_clients: `N`.
        shards_per_client: `S`; `N S` is at most `n`.

    Returns:
        `[n]` int32 clients; the sizes of shards differ by at most one.
    """
    n, num_shards = labels.shape[0], num_clients * shards_per_client
    order_key, deal_key = jax.random.split(key)
    units = _sorted_by_label(order_key, labels)
    # The first `longer` shards hold one more; `i * num_shards // n` would overflow.
    size, longer = divmod(n, num_shards)
    place = jnp.arange(n, dtype=jnp.int32)
    head = longer * (size + 1)
    shard = jnp.where(
        place < head, place // (size + 1), longer + (place - head) // max(size, 1)
    )
    owner = jax.random.permutation(deal_key, num_shards).astype(jnp.int32) % num_clients
    return jnp.zeros(n, jnp.int32).at[units].set(owner[shard])


@functools.partial(jax.jit, static_argnames=("num_labels", "num_clients"))
def assign_drift(
    key: Array,
    labels: Array,
    time: Array,
    alpha: float | Array,
    strength: float | Array,
    *,
    num_labels: int,
    num_clients: int,
) -> Array:
    """Moves the label mixtures of clients from `a_c` to `b_c` as time goes from 0 to 1.

    With independent `a_c, b_c ~ Dir(alpha p)` and `s = strength * time`, a unit of
    label `l` goes to client `c` with probability `(1 - s) a_c(l) + s b_c(l)`, after `a`
    and `b` are normalised over clients for each label.

    Args:
        key: Typed key.
        labels: `[n]` int32 in `[0, num_labels)`.
        time: `[n]` in `[0, 1]`.
        alpha: Concentration of the mixtures.
        strength: Extent of the drift: 0 none, 1 from `a_c` to `b_c`.
        num_labels: `L`.
        num_clients: `N`.

    Returns:
        `[n]` int32 clients. Their sizes are approximately equal in expectation; clients
        may be empty.
    """
    n = labels.shape[0]
    mixture_key, when_key, client_key = jax.random.split(key, 3)
    shares = jnp.bincount(labels, length=num_labels) / n
    concentration = jnp.maximum(alpha * shares, 1e-6).astype(jnp.float32)
    # In logarithms: with a small alpha, every client's share of a label may vanish.
    gammas = jax.random.loggamma(
        mixture_key, concentration, (2, num_clients, num_labels), jnp.float32
    )
    mixtures = jax.nn.log_softmax(gammas, axis=-1)
    below = jnp.cumsum(jax.nn.softmax(mixtures, axis=1), axis=1)
    odds = (strength * time).astype(jnp.float32)
    late = jax.random.bernoulli(when_key, odds).astype(jnp.int32)
    total = below[late, -1, labels]
    target = jax.random.uniform(client_key, (n,), jnp.float32) * total
    target = jnp.minimum(target, jnp.nextafter(total, 0.0))

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        right = below[late, middle, labels] <= target
        return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

    # Each unit has its own cumulative row; bisection gathers log2(N) entries of it.
    start = jnp.zeros(n, jnp.int32), jnp.full(n, num_clients - 1, jnp.int32)
    return jax.lax.fori_loop(0, max(num_clients - 1, 1).bit_length(), halve, start)[0]


def _sorted_by_label(key: Array, labels: Array) -> Array:
    """`[n]` units in the order of their labels, shuffled within a label."""
    shuffled = jax.random.permutation(key, labels.shape[0])
    return shuffled[jnp.argsort(labels[shuffled], stable=True)]
