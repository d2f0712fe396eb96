"""PFedRec on MovieLens 100K. As published code evaluates it, leak included.

fedjax-rec train configs/pfedrec_ml100k_compat.py --data.dir ~/ml-100k

For comparison with published figures only: training negatives avoid the test items, so
that a ranker with no model (row "draw count") does as well.

Expect HR@10 .719, NDCG@10 .441 (round 93; published: .716 / .434); controls:
popularity .418 / .228, draw count 1.000 / .980,
random .112 / .051. 3 to 6 minutes on 2 cores.
"""

from fedjax_rec import Experiment, FileData, LeaveOneOut, PFedRec, paper_compat


def get_config() -> Experiment:
    """All 943 users as clients, 99 sampled candidates, leaky negatives."""
    return Experiment(
        name="pfedrec_ml100k_compat",
        data=FileData(source="movielens-100k", order="quicksort_by_user"),
        split=LeaveOneOut(ties="reverse_file_order"),
        algorithm=PFedRec(),
        protocol=paper_compat(),
        rounds=100,
        eval_every=1,
    )
