"""A corpus without a backbone."""

import numpy as np

EMBEDDING = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)


class Embedded:
    """A corpus whose texts are embedded at random."""

    def embeddings(self):
        return EMBEDDING
