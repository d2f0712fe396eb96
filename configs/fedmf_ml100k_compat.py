"""FedMF on MovieLens 100K. As published code evaluates it, leak included.

fedjax-rec train configs/fedmf_ml100k_compat.py --data.dir ~/ml-100k

For comparison with published figures only: training negatives avoid the test items, so
that a ranker with no model (row "draw count") does as well.

Expect HR@10 .672, NDCG@10 .378 (round 100; published: .662 / .387); controls:
popularity .418 / .228, draw count 1.000 / .980,
random .112 / .051. A higher item rate gives more:
.719 / .436 at --algorithm.item-lr-scale 20. About 4 minutes on 2 cores.
"""

from fedjax_rec import Experiment, FedMF, FileData, LeaveOneOut, paper_compat


def get_config() -> Experiment:
    """All 943 users as clients, 99 sampled candidates, leaky negatives."""
    return Experiment(
        name="fedmf_ml100k_compat",
        data=FileData(source="movielens-100k", order="quicksort_by_user"),
        split=LeaveOneOut(ties="reverse_file_order"),
        algorithm=FedMF(item_lr_scale=5.0),
        protocol=paper_compat(),
        rounds=100,
        eval_every=1,
    )
