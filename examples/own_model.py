"""A model of one's own in FedAvg: matrix factorization with biases.

    fedjax-rec train fedavg_synthetic --plugin examples/own_model.py \\
        --algorithm.model biased --algorithm.model.decay 0.01
"""

import dataclasses

import jax.numpy as jnp

import fedjax_rec as fr


@fr.kind("model")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Biased(fr.ModelSettings):
    """`score(u, i) = p_u . q_i + b_i`; the user vector stays on the client.

    Attributes:
        dim: width of user and item vectors.
        decay: weight of the squared vectors of a batch. A sweep over it is one
            program, since only the loss reads it.
    """

    dim: int = 16
    decay: float = 0.0

    def parameters(self):
        return {
            "item": fr.table(self.dim),
            "bias": fr.table(scale=0.0),
            "user": fr.dense(self.dim, scale=0.1, personal=True),
        }

    def score(self, p):
        return p.item @ p.user + p.bias

    def loss(self, p, batch):
        squares = jnp.square(p.item).sum(-1) + jnp.square(p.user).sum()
        return batch.bce(self.score(p)) + self.decay * batch.mean(squares)
