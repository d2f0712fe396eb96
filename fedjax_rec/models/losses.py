"""Losses over a masked batch."""

import jax
import jax.numpy as jnp
import optax

from fedjax_rec.core.arrays import Array


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean of `values` `[B]` selected by `mask`; 0, with zero gradient, if none is."""
    selected = jnp.where(mask, values, 0)
    return selected.sum() / jnp.maximum(mask.sum(), 1).astype(values.dtype)


def binary_cross_entropy(logits: Array, labels: Array, mask: Array) -> Array:
    """Mean of `-y log s - (1 - y) log(1 - s)`, `s` the sigmoid of `logits` `[B]`."""
    return masked_mean(optax.sigmoid_binary_cross_entropy(logits, labels), mask)


def squared_error(predictions: Array, targets: Array, mask: Array) -> Array:
    """Mean of `(prediction - target)^2` over the batch `[B]`."""
    return masked_mean(jnp.square(predictions - targets), mask)


def bpr(scores: Array, mask: Array) -> Array:
    """Mean of `-log s(x_p - x_n)` over pairs of a positive and a negative of its row.

    Args:
        scores: `[B, G]`; column 0 is the positive, the others its negatives.
        mask: `[B, G]` bool, whether an entry is real. A pair is real if both its scores
            are; other scores are ignored, even if they are `-inf` or NaN.

    Returns:
        A scalar; 0, with zero gradient, if no pair is real.

    References:
        Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI
        2009.
    """
    scores = jnp.where(mask, scores, 0)
    pairs = mask[:, :1] & mask[:, 1:]
    return masked_mean(jax.nn.softplus(scores[:, 1:] - scores[:, :1]), pairs)


def sampled_softmax(scores: Array, log_q: Array, mask: Array) -> Array:
    """Cross entropy of the positive against a weighted sample of the other items.

    For a row with positive `p` and sampled negatives `S`, each of another item,

        -x_p + log(exp x_p + sum over j in S of exp(x_j - log q_j)),

    `q_j` the *expected count* of item `j` in the sample: `n Q(j)` for `n` independent
    draws from `Q`, the inclusion probability for draws without replacement, 1 if every
    negative is included once. The sum is an unbiased estimate of that over the
    positive's complement, by importance sampling. The positive is always included, its
    expected count is 1, and it is not corrected: this is the form for negatives that
    exclude the positive, and a draw that hits it must be masked. (Jean et al. correct
    the positive too, as a member of the sample; Yi et al. have the negatives from
    the batch.) The loss is biased downwards by the concavity of the log, and tends to
    the full softmax over the positive and all other items as the sample grows.

    Args:
        scores: `[B, G]`, `x`; column 0 is the positive, the others its negatives.
        log_q: `[B, G]`, log of the expected counts; column 0 is not read.
        mask: `[B, G]` bool, whether an entry is real; other entries are ignored, even
            if they are infinite or NaN. A row without a real positive is left out.

    Returns:
        A scalar, the mean over the rows with a real positive; 0, with zero gradient, if
        there are none.

    References:
        Bengio and Senecal, Adaptive Importance Sampling to Accelerate Training of a
        Neural Probabilistic Language Model, IEEE Trans. Neural Networks, 2008.
        Jean et al., On Using Very Large Target Vocabulary for Neural Machine
        Translation, ACL 2015.
        Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
        Recommendations, RecSys 2019.
    """
    # Replaced first, as a gradient through 0 * inf would be NaN.
    positive = jnp.arange(scores.shape[1]) == 0
    logits = jnp.where(mask, scores, 0) - jnp.where(mask & ~positive, log_q, 0)
    # The positive's column is in every row, so that no sum is empty.
    total = jax.nn.logsumexp(logits, axis=1, where=mask | positive)
    return masked_mean(total - logits[:, 0], mask[:, 0])
