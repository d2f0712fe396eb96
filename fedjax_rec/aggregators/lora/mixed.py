"""LoRA where clients have different ranks: zero padding, and truncated products."""

import jax.numpy as jnp

from fedjax_rec.aggregators.lora.factors import A, B, Means, columns
from fedjax_rec.aggregators.lora.rule import lora_rule
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator


def averaged(
    inner: Aggregator, *, uniform: bool = False, mixed: bool = False
) -> Aggregator:
    """FedIT: both factors like all else, by `inner`, with the metric `lora_gap`.

    Args:
        inner: the rule for all groups.
        uniform: every client weighs the same in the gap, else its number of examples.
        mixed: clients have different ranks, and are wrapped by
            `clients.ranks.with_ranks`; factors are then averaged here, those of a
            smaller rank padded with zeros.

    Returns:
        An aggregator.

    References:
        Zhang et al., Towards Building the Federated GPT: Federated Instruction Tuning,
        ICASSP 2024.
    """
    if mixed:
        return padded(inner, uniform=uniform, norm_weights=False)
    return lora_rule(inner, uniform=uniform)


def _by_norm(profile: Array, weights: Array) -> tuple[Array, Array]:
    weights, mask = columns(profile, weights)
    return weights * profile[:, -1], mask


def padded(
    inner: Aggregator,
    *,
    uniform: bool = False,
    mixed: bool = True,
    norm_weights: bool = True,
) -> Aggregator:
    """HetLoRA: means of the factors, those of a smaller rank padded with zeros.

    `A = sum_i s_i A_i / sum_i s_i` with `s_i = n_i ||A_i B_i||_F`: products that are
    sparse for want of rank, or for want of anything learned, weigh less. The paper has
    no `n_i`, which is `uniform`. Its self-pruning of ranks is left out: a client's rank
    is its device's. With equal ranks and without the norms it is the plain mean.

    Args:
        inner: the rule for all other groups.
        uniform: `n_i` is 1, else the number of examples.
        mixed: not read: clients tell their norm beside their rank in any case.
        norm_weights: whether `s_i` has the norm.

    Returns:
        An aggregator, for clients wrapped by `clients.ranks.with_ranks`.

    References:
        Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
        Models, EMNLP 2024.
    """

    def reach(found: Means, shared: Tree, state: Tree):
        del shared
        return {A: found.a, B: found.b}, state

    del mixed
    read = _by_norm if norm_weights else columns
    return lora_rule(inner, reach, uniform=uniform, read=read)


def truncated(
    inner: Aggregator, *, uniform: bool = False, mixed: bool = False
) -> Aggregator:
    """FlexLoRA: the mean product, cut to the largest rank by its SVD.

    `mean(A_i B_i) = U S V^T`, `A = U_r`, `B = S_r V_r^T`. Columns are in order of their
    singular values, so the first `k` of them, which a client of rank `k` takes, are the
    best approximation of that rank (Eckart-Young).

    Args:
        inner: the rule for all other groups.
        uniform: every client weighs the same, else its number of examples.
        mixed: clients have different ranks, and are wrapped by
            `clients.ranks.with_ranks`.

    Returns:
        An aggregator.

    References:
        Bai et al., Federated Fine-tuning of Large Language Models under Heterogeneous
        Tasks and Client Resources (FlexLoRA), NeurIPS 2024.
    """

    def reach(found: Means, shared: Tree, state: Tree):
        del shared
        a, b = {}, {}
        for path, product in found.product.items():
            u, s, vt = jnp.linalg.svd(product, full_matrices=False)
            sign = jnp.where(u.sum(-2) < 0, -1, 1)  # an SVD leaves it open
            u, vt = u * sign[..., None, :], vt * sign[..., None]
            r = found.a[path].shape[-1]
            pad = max(0, r - s.shape[-1])  # a rank above that of any matrix
            u = jnp.pad(u[..., :r], ((0, 0), (0, 0), (0, pad)))
            b_path = s[..., :r, None] * vt[..., :r, :]
            a[path], b[path] = u, jnp.pad(b_path, ((0, 0), (0, pad), (0, 0)))
        return {A: a, B: b}, state

    return lora_rule(inner, reach, uniform=uniform, read=columns if mixed else None)
