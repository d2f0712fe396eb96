"""Which systems test_mesh.py compares, and its process with eight devices runs."""

from collections.abc import Callable

from fedjax_rec.aggregators.robust.bulyan import bulyan
from fedjax_rec.aggregators.robust.clipping import centered_clipping
from fedjax_rec.aggregators.robust.colluding import colluding
from fedjax_rec.aggregators.robust.coordinates import (
    coordinate_median,
    trimmed_mean,
)
from fedjax_rec.aggregators.robust.geometric import geometric_median
from fedjax_rec.aggregators.robust.krum import krum, multi_krum
from fedjax_rec.aggregators.robust.majority import majority_vote
from fedjax_rec.aggregators.robust.mixing import mixed
from fedjax_rec.aggregators.robust.norm_bound import norm_bound
from fedjax_rec.attacks import attackers
from fedjax_rec.core.contracts import Aggregator, Recipe
from fedjax_rec.experiment.codec import CodecConfig, with_codec

# Of each way to aggregate, to lift, to keep state and to send one.
FEW = (
    "pfedrec",
    "fedavg",
    "fedfm lifted embedding, bpr, shared once",
    "pfedrec, top-k with feedback",
    "fedavg, update guided",
)


def of(rule: Aggregator, codec: str) -> Callable[[Recipe], Recipe]:
    """The recipe with another rule, and messages in a codec."""

    def transform(recipe: Recipe) -> Recipe:
        # So that a round shows, where a robust rule keeps little of what clients send.
        hparams = {**recipe.hparams, "client_lr": 10 * recipe.hparams["client_lr"]}
        recipe = recipe._replace(aggregator=rule, hparams=hparams)
        return with_codec(recipe, CodecConfig(name=codec, rank=2))  # pyright: ignore[reportArgumentType]

    return transform


# What becomes of "fedavg", each rule with another codec. A vote of signs steps so far
# that a round shows.
RULES = {
    "trimmed mean of voters, int8": of(trimmed_mean(voting="voters"), "int8"),
    "median, bf16": of(coordinate_median(), "bf16"),
    "geometric median diluted, qsgd": of(geometric_median(voting="diluted"), "qsgd"),
    "krum, float32": of(krum(), "float32"),
    "krum of voters, terngrad": of(krum(voting="voters"), "terngrad"),
    "multi-krum of voters, drive": of(multi_krum(voting="voters"), "drive"),
    "bulyan diluted, random-k": of(bulyan(voting="diluted"), "random_k"),
    "clipping of voters, row top-k": of(
        centered_clipping(voting="voters"), "row_top_k"
    ),
    "norm bound, threshold": of(norm_bound(), "threshold"),
    "norm bound of voters, svd": of(norm_bound(voting="voters"), "svd"),
    "mixed median of voters, int4": of(
        mixed(coordinate_median(voting="voters")), "int4"
    ),
    "majority vote, sign": of(majority_vote(step=0.05), "sign"),
    "majority vote, dgc": of(majority_vote(step=0.05), "dgc"),
    "colluders, none": of(
        colluding(trimmed_mean(share=0.2), attackers(9, 0.3), kind="alie"), "none"
    ),
}
FEW_RULES = ("trimmed mean of voters, int8",)
