"""From films to video games: transfer through texts.

    fedjax-rec transfer configs/transfer_ml_to_games.py \\
        --data.dir ~/ml-latest-small --target amazon --target.data.dir ~/amazon-games

Trains on MovieLens latest-small; 5,000 of 50,546 users of Amazon games, 16,859 items,
full ranking, last item held out. Mean and standard deviation over seeds 0..2 of the
training (the target's users are the same; over users the standard error of NDCG@10 is
.0014):

    target                          HR@10         NDCG@10          AUC
    random                      .0005 ± .0003  .0002 ± .0001  .5066 ± .0022
    popularity (sees target)    .0116          .0056          .7652
    zero-shot, texts shuffled   .0002          .0001          .5073
    zero-shot, untrained        .0286          .0147          .7433
    zero-shot                   .0283 ± .0002  .0146 ± .0001  .7434 ± .0000
    few-shot, 1 local step      .0292 ± .0002  .0152 ± .0003  .7457 ± .0015
    few-shot, 3 local steps     .0303 ± .0008  .0161 ± .0009  .7497 ± .0039
    few-shot, 5 local steps     .0310 ± .0023  .0168 ± .0016  .7532 ± .0058
    untrained, 5 local steps    .0311 ± .0023  .0169 ± .0016

The frozen backbone transfers: training on films makes no difference that 5,000 users
could show, and local steps help as much without it. Popularity is below by NDCG
and above by AUC. On the source, validation NDCG@10 goes from .0207 to .0232 ± .0003
(the best of three looks at 610 users); its test is at .0062 ± .0003, below popularity,
.0178. The spread of few-shot is that of the rate: validation chose .03, .01 and .01.

The source's hyperparameters were chosen on its validation, most of them without the
adapter, which is 20 times as fast. About 10 minutes on 2 shared cores, and 5 more
the first time, for the frozen layers' states of both catalogs.
"""

from fedjax_rec import (
    BackboneConfig,
    Execution,
    Experiment,
    FedAdam,
    FedFM,
    FileData,
    History,
    LoRA,
    Mean,
    Uniform,
)


def get_config() -> Experiment:
    """The source: MovieLens latest-small, only histories, everything shared."""
    return Experiment(
        name="ml_to_games",
        data=FileData(source="movielens-latest-small"),
        algorithm=FedFM(
            adapter=LoRA(layers=1),
            users=History(heads=1),
            dim=128,
            loss="softmax",
            batch_size=1_000_000,
            server_optimizer=FedAdam(lr=1e-4, tau=1e-8),
        ),
        aggregation=Mean(weights="uniform"),
        backbone=BackboneConfig(),
        cohort=Uniform(size=200),
        execution=Execution(max_buckets=3),
        rounds=6,
        eval_every=2,
    )
