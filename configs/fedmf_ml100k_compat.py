"""FedMF on MovieLens 100K. As published code evaluates it, leak included.

fedjax-rec train configs/fedmf_ml100k_compat.py --data.dir ~/ml-100k

For comparison with published figures only: training negatives avoid the test items, so
that a ranker with no model (row "draw count") does as well.

(measured figures: see below)
"""

from fedjax_rec import Experiment, FedMF, FileData, SplitConfig, paper_compat


def get_config() -> Experiment:
    """All 943 users as clients, 99 sampled candidates, leaky negatives."""
    return Experiment(
        name="fedmf_ml100k_compat",
        data=FileData(source="movielens-100k"),
        split=SplitConfig(ties="reverse_file_order"),
        algorithm=FedMF(item_lr_scale=5.0),
        protocol=paper_compat(),
        rounds=100,
        eval_every=5,
    )
