"""PFedRec on your own table: columns of users, items, and maybe ratings and times.

fedjax-rec train configs/pfedrec_csv.py --data.dir interactions.csv

Column names are guessed from the header; `--data.user customer --data.item sku` says
them. Without timestamps the order of the lines counts as time. What to expect depends
on your data: the baselines in the table say what counts as good.
"""

from fedjax_rec import CsvData, Experiment, PFedRec


def get_config() -> Experiment:
    """Users with three interactions at least: one to train on, two held out."""
    return Experiment(
        name="pfedrec_csv",
        data=CsvData(min_interactions=3),
        algorithm=PFedRec(),
        rounds=100,
        eval_every=10,
    )
