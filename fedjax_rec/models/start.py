"""Initial values that are computed from a catalog's embeddings."""

import numpy as np

RIDGE = 5.0
"""Ridge of the whitening in `principal`; a penalty of 10 on ML-100K."""


def principal(embedding: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The first principal axes of a catalog, whitened as ridge regression would.

    In `z = W^T (e - mean)`, with axes scaled by `1 / sqrt(s^2 / I + floor)`, a user's
    vector one gradient step from zero is that user's ridge regression on the
    embeddings, with penalty `I floor`. The floor is `RIDGE` times the mean variance of
    an axis.

    Args:
        embedding: `[I, D]`.
        dim: `d`.

    Returns:
        `[D, d]` and the mean `[D]`, float32.

    Raises:
        ValueError: there are fewer than `d` axes.
    """
    center = embedding.mean(0)
    if dim > min(embedding.shape):
        raise ValueError(
            f"algorithm.dim={dim}: expected at most {min(embedding.shape)}, for "
            f"{embedding.shape[0]} texts of width {embedding.shape[1]}"
        )
    _, scale, axes = np.linalg.svd(embedding - center, full_matrices=False)
    variance = scale**2 / len(embedding)
    floor = RIDGE * variance.sum() / embedding.shape[1]
    signs = np.sign(axes[:dim].sum(1, keepdims=True))  # SVD leaves them open
    axes = axes[:dim] * np.where(signs == 0, 1, signs)
    axes /= np.sqrt(variance[:dim, None] + floor)
    # So that vectors have about norm 1.
    axes /= np.sqrt(np.sum(variance[:dim] / (variance[:dim] + floor)))
    return axes.T.astype(np.float32), center
