"""FedNCF on MovieLens 100K. As published code evaluates it, leak included.

This is the baseline of the papers on PFedRec and GPFedRec, with the plain mean of all
parts after SGD, not the system of the paper on FedNCF, which is the default.

fedjax-rec train configs/fedncf_ml100k_compat.py --data.dir ~/ml-100k

For comparison with published figures only: training negatives avoid the test items, so
that a ranker with no model (row "draw count") does as well.

Expect HR@10 .600, NDCG@10 .335 (round 100; published: .607 / .339); controls:
popularity .418 / .228, draw count 1.000 / .980,
random .112 / .051. A higher rate gives more:
.650 / .370 at --algorithm.client-optimizer.lr 0.5. About 6 minutes on 2 cores.
"""

from fedjax_rec import SGD, Experiment, FedNCF, FileData, LeaveOneOut, paper_compat


def get_config() -> Experiment:
    """All 943 users as clients, 99 sampled candidates, leaky negatives."""
    return Experiment(
        name="fedncf_ml100k_compat",
        data=FileData(source="movielens-100k", order="quicksort_by_user"),
        split=LeaveOneOut(ties="reverse_file_order"),
        algorithm=FedNCF(
            averaging="plain",
            client_optimizer=SGD(lr=0.4),
            item_lr_scale=5.0,
            dim=32,
            hidden=(32, 16, 8),
            local_epochs=1,
            init_scale=0.1,
        ),
        protocol=paper_compat(),
        rounds=100,
        eval_every=1,
    )
