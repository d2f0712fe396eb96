"""FedAvg for any model here, with FedProx and adaptive servers."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import optax

from fedjax_rec.aggregators import AGGREGATORS
from fedjax_rec.aggregators.scaffold import scaffold
from fedjax_rec.algorithms.clustered import clustered
from fedjax_rec.algorithms.clustered_by_profile import clustered_by_profile
from fedjax_rec.algorithms.clustered_by_update import clustered_by_update
from fedjax_rec.algorithms.fedamp import fedamp
from fedjax_rec.algorithms.server_step import except_for
from fedjax_rec.clients.control import CONTROL, controlled_update, with_control
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.clients.steps import local_steps
from fedjax_rec.core.contracts import ClientUpdate, Recipe
from fedjax_rec.data.pairs import implicit_pairs
from fedjax_rec.models.factorization import matrix_factorization
from fedjax_rec.models.neural_cf import neural_cf
from fedjax_rec.models.pfedrec import personal_scorer

CLIENT_OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": optax.adam,
    "adagrad": optax.adagrad,
}

SERVER_OPTIMIZERS = {
    "sgd": lambda rate, momentum, tau: optax.sgd(rate),
    "momentum": lambda rate, momentum, tau: optax.sgd(rate, momentum=momentum),
    "adam": lambda rate, momentum, tau: optax.adam(rate, b1=momentum, b2=0.99, eps=tau),
    "yogi": lambda rate, momentum, tau: optax.yogi(rate, b1=momentum, b2=0.99, eps=tau),
    "adagrad": lambda rate, momentum, tau: optax.adagrad(rate, eps=tau),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Local training, a mean, a server optimizer.

    The adaptive servers are optax's. Where algorithm 2 of Reddi et al. starts `v` at
    `server_tau**2` or more and corrects no bias, `adam` and `yogi` (beta_2 = .99)
    correct that of `m` and `v`, `adam` from 0 and `yogi` from 1e-6; `adagrad` starts
    `v` at .1 and has no momentum. Tuned rates of the paper therefore do not carry over.

    Attributes:
        model: `mf` (matrix factorization), `ncf` (its MLP form), or `scorer` (a
            personal linear score over item rows).
        users: `personal` vectors that never leave the client, or a shared `table`,
            for clients that hold several users.
        dim: width of user and item vectors.
        client_optimizer: of the local steps; all but `sgd` keep a state for every row
            a client touches, afresh each round.
        client_lr: learning rate of the local steps.
        item_lr_scale: plain SGD moves rows by `client_lr * item_lr_scale`.
        proximal: mu of FedProx, `mu / 2 |w - w_t|^2` on the shared parameters; 0 off.
        control: `scaffold` corrects the local steps by control variates, which double
            what is sent and received. Each client keeps them for every item, as many
            numbers as are shared: `population.store` may move them off the device.
        clusters: so many models are trained, each by the clients of a cluster.
        clustered_by: whom: a client takes the model of least `loss` each round, and
            receives all of them (IFCA); or clients are grouped for good, by their
            `profile` before training (`profile.source`), or by the direction of their
            `update` of one model after `warm_rounds`.
        warm_rounds: of one model, before clients are grouped by update.
        personalized: `fedamp` keeps a model for each client, drawn to those of clients
            like it, in place of `aggregation`; `proximal` is its `lambda / alpha`.
        amp_sigma: of FedAMP, the squared distance of two models at which their
            attraction falls to `1 / e`; the metric `amp_distance` tells the mean.
        amp_mixing: of FedAMP, `alpha N / sigma`: at 1 models that are equally far
            from each other are averaged, at 0 each client trains alone.
        aggregation: the mean weighs clients by `examples` (FedAvg), all the same
            (`uniform`), each row by the clients that touched it (`per_row`), or is a
            plain `sum`.
        server_optimizer: of the pseudo-gradient (FedAvgM, FedAdam, FedYogi,
            FedAdagrad).
        server_lr: learning rate of the server optimizer.
        server_momentum: momentum, and beta_1 of `adam` and `yogi`.
        server_tau: adaptivity, added to the denominator (`adagrad`: to `v`, under the
            root).
        batch_size: pairs a step.
        local_epochs: passes over the pairs a round.
        negatives: negatives a positive.
        init_scale: standard deviation of the initial vectors.

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from
        Decentralized Data, AISTATS 2017. Li et al., Federated Optimization in
        Heterogeneous Networks (FedProx), MLSys 2020. Reddi et al., Adaptive Federated
        Optimization, ICLR 2021. Karimireddy et al., SCAFFOLD: Stochastic Controlled
        Averaging for Federated Learning, ICML 2020. Ghosh et al., An Efficient
        Framework for Clustered Federated Learning, NeurIPS 2020 (`clusters`). Sattler
        et al., Clustered Federated Learning, IEEE TNNLS 2021, and Briggs et al., IJCNN
        2020 (`clustered_by="update"`). Huang et al., Personalized Cross-Silo Federated
        Learning on Non-IID Data (FedAMP), AAAI 2021.
    """

    model: Literal["mf", "ncf", "scorer"] = "mf"
    users: Literal["personal", "table"] = "personal"
    dim: int = 32
    client_optimizer: Literal["sgd", "momentum", "adam", "adagrad"] = "sgd"
    client_lr: float = 0.5
    item_lr_scale: float = 1.0
    proximal: float = 0.0
    control: Literal["none", "scaffold"] = "none"
    clusters: int = 1
    clustered_by: Literal["loss", "update", "profile"] = "loss"
    warm_rounds: int = 10
    personalized: Literal["none", "fedamp"] = "none"
    amp_sigma: float = 1.0
    amp_mixing: float = 1.0
    aggregation: Literal["examples", "uniform", "per_row", "per_row_uniform", "sum"] = (
        "per_row"
    )
    server_optimizer: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = "sgd"
    server_lr: float = 1.0
    server_momentum: float = 0.9
    server_tau: float = 1e-3
    batch_size: int = 256
    local_epochs: int = 1
    negatives: int = 4
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        if self.proximal < 0:
            raise ValueError(f"proximal must not be negative, got {self.proximal}")
        if self.model == "scorer" and self.users == "table":
            raise ValueError(
                "model='scorer' has no user vectors to put in a table: the scorer "
                "itself is the user. Use users='personal', or model='mf' or 'ncf'"
            )
        if self.clusters < 1 or (self.clusters > 1 and self.control != "none"):
            raise ValueError(
                f"clusters={self.clusters} with control={self.control!r}: expected at "
                "least 1, and more than 1 only without control"
            )
        if self.warm_rounds < 1:
            raise ValueError(f"warm_rounds must be at least 1, got {self.warm_rounds}")
        if self.personalized == "fedamp":
            self._check_fedamp()
        fits = self.model != "scorer" and self.users == "personal"
        if self.control == "scaffold" and not (
            fits and self.client_optimizer == "sgd" and not self.proximal
        ):
            raise ValueError(
                "control='scaffold' corrects plain SGD on shared parameters, one user "
                "a client: expected model='mf' or 'ncf', users='personal', "
                "client_optimizer='sgd' and proximal=0, got "
                f"{self.model!r}, {self.users!r}, {self.client_optimizer!r} and "
                f"{self.proximal}"
            )

    def _check_fedamp(self) -> None:
        plain = {
            "clusters": 1,
            "control": "none",
            "server_optimizer": "sgd",
            "server_lr": 1.0,
        }
        wrong = [
            f"{name}={getattr(self, name)!r}"
            for name, value in plain.items()
            if getattr(self, name) != value
        ]
        if wrong:
            raise ValueError(
                "personalized='fedamp' mixes the clients' models into new ones, with no"
                f" server step, control or clusters: leave out {', '.join(wrong)}"
            )
        if not self.amp_sigma > 0 or not 0 <= self.amp_mixing <= 1:
            raise ValueError(
                f"amp_sigma={self.amp_sigma}, amp_mixing={self.amp_mixing}: expected a "
                "positive squared distance, and a mixing in [0, 1]"
            )

    def build(
        self,
        *,
        num_items: int,
        num_users: int,
        dtype=jnp.float32,
        profiles: Any = None,
        num_clients: int = 0,
    ) -> Recipe:
        """The recipe for a catalog of `num_items` and `num_users` people.

        Args:
            num_items: `I`.
            num_users: `U`.
            dtype: of the parameters.
            profiles: `[N, p]` of the clients, for `clustered_by="profile"`.
            num_clients: `N`, for FedAMP; 0 is one for each user.

        Raises:
            ValueError: clusters by profile, and no profiles; or what `fedamp` refuses.
        """
        users = num_users if self.users == "table" else None
        scale = self.init_scale
        if self.model == "mf":
            model = matrix_factorization(
                num_items, self.dim, num_users=users, init_scale=scale, dtype=dtype
            )
        elif self.model == "ncf":
            model = neural_cf(
                num_items, self.dim, num_users=users, init_scale=scale, dtype=dtype
            )
        else:
            model = personal_scorer(num_items, self.dim, scale, dtype)
        draw = implicit_pairs(num_items, self.negatives)
        local = CLIENT_OPTIMIZERS[self.client_optimizer]
        server = SERVER_OPTIMIZERS[self.server_optimizer]
        plain = self.client_optimizer == "sgd" and not self.proximal
        phase = Phase(
            lambda h: local(h["client_lr"]),
            row_rate=(lambda h: h["client_lr"] * h["item_lr_scale"]) if plain else None,
            proximal=(lambda h: h["proximal"]) if self.proximal else None,
        )
        aggregator = AGGREGATORS[self.aggregation]()

        def train(model) -> ClientUpdate:
            return local_update(
                model,
                draw,
                (phase,),
                batch_size=self.batch_size,
                epochs=self.local_epochs,
            )

        def server_step(h) -> optax.GradientTransformation:
            moved = server(h["server_lr"], h["server_momentum"], h["server_tau"])
            return moved if self.control == "none" else except_for((CONTROL,), moved)

        if self.control == "scaffold":
            pairs = 1 + self.negatives
            update = controlled_update(
                train,
                model,
                steps=local_steps(self.batch_size, self.local_epochs, pairs),
                rate=lambda h: h["client_lr"],
                row_rate=lambda h: h["client_lr"] * h["item_lr_scale"],
            )
            model = with_control(model, tables=True)
            aggregator = scaffold(aggregator, num_users)
        else:
            update = train(model)
        recipe = Recipe(
            model=model,
            client_update=update,
            aggregator=aggregator,
            server_optimizer=server_step,
            hparams={
                name: getattr(self, name)
                for name in (
                    "client_lr",
                    "item_lr_scale",
                    "proximal",
                    "server_lr",
                    "server_momentum",
                    "server_tau",
                )
            },
            draw=draw,
            negatives=self.negatives,
            single_user=self.users == "personal",
        )
        if self.personalized == "fedamp":
            return fedamp(
                recipe,
                num_clients or num_users,
                sigma=self.amp_sigma,
                mixing=self.amp_mixing,
            )
        return recipe if self.clusters == 1 else self._clustered(recipe, profiles)

    def _clustered(self, recipe: Recipe, profiles: Any) -> Recipe:
        if self.clustered_by == "loss":
            return clustered(recipe, self.clusters)
        if self.clustered_by == "update":
            return clustered_by_update(
                recipe, self.clusters, warm_rounds=self.warm_rounds
            )
        if profiles is None:
            raise ValueError(
                "clustered_by='profile' groups clients by what they tell of "
                "themselves: set profile.source to 'text' (or to a control)"
            )
        return clustered_by_profile(recipe, self.clusters, profiles)
