"""FedRAP in the declarative form: a shared and a personal vector for every item.

    fedjax-rec train fedavg_synthetic --plugin examples/fedrap.py --algorithm fedrap

Li et al., Federated Recommendation with Additive Personalization, ICLR 2024.
"""

import dataclasses

import jax.numpy as jnp

import fedjax_rec as fr


@fr.kind("algorithm", "fedrap")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FedRAP(fr.System):
    """`score(i) = w . (C_i + D_i) + b`; only the table `C` is sent.

    Attributes:
        dim: width of item vectors.
        item_lr: learning rate of both tables.
        lam: weight of the distance of `C` and `D`, which is to be large.
        mu: weight of the 1-norm of `C`.
    """

    dim: int = 16
    item_lr: float = 20.0
    lam: float = 0.01
    mu: float = 0.01

    def parameters(self):
        return {
            "C": fr.table(self.dim, scale=0.1),
            "D": fr.table(self.dim, scale=0.1, personal=True),
            "w": fr.dense(self.dim, scale=0.3, personal=True),
            "b": fr.dense(personal=True),
        }

    def score(self, p):
        return (p.C + p.D) @ p.w + p.b

    def loss(self, p, batch):
        apart = batch.mean(jnp.square(p.C - p.D).mean(-1))
        size = batch.mean(jnp.abs(p.C).sum(-1))
        return batch.bce(self.score(p)) - self.lam * apart + self.mu * size

    def rates(self):
        return {"C": self.item_lr, "D": self.item_lr, "*": self.client_lr}
