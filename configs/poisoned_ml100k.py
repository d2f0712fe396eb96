"""A tenth of the clients attack PFedRec on MovieLens 100K: rules against attacks.

fedjax-rec sweep configs/poisoned_ml100k.py --data.dir ~/ml-100k

Expect, for the mean, NDCG@10 .054 of honest clients, .021 under flipped signs, .045
under noise, and the pushed item in the top 10 of about half the users; for the median
among a row's voters .037 to .040 and never (docs/robust.md). About half an hour on
2 cores.
"""

from fedjax_rec import (
    NNM,
    Boost,
    Bulyan,
    CenteredClipping,
    Execution,
    Experiment,
    FileData,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    Noise,
    NormBound,
    PFedRec,
    Protocol,
    SignFlip,
    TrimmedMean,
    Uniform,
)

TARGET = 1664
"""An item that one user rated."""

ATTACKS = {
    "honest": None,
    "sign_flip": SignFlip(share=0.1, scale=10.0),
    "noise": Noise(share=0.1, scale=10.0),
    "boost": Boost(share=0.1, scale=10.0, item=TARGET),
}

# Rules assume twice as many attackers as there are: a sample has more than its share.
RULES = {
    "mean": None,
    "median_diluted": Median(share=0.2, voting="diluted"),
    "trimmed_mean_diluted": TrimmedMean(share=0.2, voting="diluted"),
    "geometric_median_diluted": GeometricMedian(share=0.2, voting="diluted"),
    "multi_krum": MultiKrum(share=0.2),
    "bulyan": Bulyan(share=0.2),
    "centered_clipping": CenteredClipping(share=0.2),
    "norm_bound": NormBound(share=0.2),
    "krum": Krum(share=0.2),
    "nnm_median_diluted": NNM(share=0.2, then=Median(share=0.2, voting="diluted")),
    "multi_krum_diluted": MultiKrum(share=0.2, voting="diluted"),
    "bulyan_diluted": Bulyan(share=0.2, voting="diluted"),
    "centered_clipping_diluted": CenteredClipping(share=0.2, voting="diluted"),
    "norm_bound_diluted": NormBound(share=0.2, voting="diluted"),
}


def get_config() -> tuple[Experiment, ...]:
    """Honest clients and three attacks, under the mean and thirteen robust rules."""
    return tuple(
        Experiment(
            name=f"{rule_name}-{attack_name}",
            data=FileData(source="movielens-100k"),
            algorithm=PFedRec(),
            aggregation=rule,
            attack=attack,
            cohort=Uniform(size=200),
            protocol=Protocol(exposed_item=TARGET),
            execution=Execution(max_buckets=2),
            rounds=60,
            eval_every=20,
        )
        for rule_name, rule in RULES.items()
        for attack_name, attack in ATTACKS.items()
    )


def get_grid() -> tuple[str, ...]:
    """Two seeds."""
    return ("seed=0:2",)
