"""A sweep of PFedRec on MovieLens 100K: 8 learning rates, 3 seeds, one program.

fedjax-rec sweep configs/sweep_pfedrec.py --data.dir ~/ml-100k \
    --grid algorithm.client-lr=log:0.0125:1.6:8 --grid seed=0:3
"""

from fedjax_rec import Execution, Experiment, FileData, PFedRec


def get_config() -> Experiment:
    """Few rounds: a learning rate shows itself early."""
    return Experiment(
        name="sweep_pfedrec",
        data=FileData(source="movielens-100k"),
        algorithm=PFedRec(),
        execution=Execution(max_buckets=2),  # quick to compile
        rounds=20,
        eval_every=5,
    )
