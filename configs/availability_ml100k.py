"""PFedRec on MovieLens 100K with phones that come and go."""

from fedjax_rec import CohortConfig, Experiment, FileData, PFedRec


def get_config() -> Experiment:
    """All 943 users as clients, 50 of those that are there in a round."""
    return Experiment(
        name="availability_ml100k",
        data=FileData(source="movielens-100k"),
        algorithm=PFedRec(),
        cohort=CohortConfig(sampling="available", size=50, over_selection=1.3),
        rounds=192,  # two days of 15-minute rounds
        eval_every=16,
    )
