"""PFedRec on MovieLens 100K.

fedjax-rec train configs/pfedrec_ml100k.py --data.dir ~/ml-100k

Expect HR@10 .136, NDCG@10 .069 of all items (round 80); controls: popularity
.084 / .043, draw count .006 / .004, random .003 / .001. About 2 minutes on 2 cores.
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
