"""PFedRec on MovieLens 100K with phones that come and go.

fedjax-rec train configs/availability_ml100k.py --data.dir ~/ml-100k

Expect HR@10 .101, NDCG@10 .052 of all items (round 160); controls: popularity
.084 / .043, draw count .006 / .004, random .003 / .001. 65 clients are invited, fewer
at the quietest hour (49 are expected then), and the first 50 count: 62.3 and 49.4 in
the mean. The 192 rounds move 675 MB down and 459 MB up, and take 2.6 minutes on the
assumed devices (docs/participation.md). 35 s on 2 cores, 145 s while
they were busy, most of it compiling.
"""

from fedjax_rec import Available, Experiment, FileData, PFedRec


def get_config() -> Experiment:
    """All 943 users as clients, 50 of those that are there in a round."""
    return Experiment(
        name="availability_ml100k",
        data=FileData(source="movielens-100k"),
        algorithm=PFedRec(),
        cohort=Available(size=50, over_selection=1.3),
        rounds=192,  # two days of 15-minute rounds
        eval_every=16,
    )
