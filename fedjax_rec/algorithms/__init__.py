"""Published systems, one file each."""

from fedjax_rec.algorithms.fedavg import FedAvg
from fedjax_rec.algorithms.fedmf import FedMF
from fedjax_rec.algorithms.fedncf import FedNCF
from fedjax_rec.algorithms.pfedrec import PFedRec

ALGORITHMS = {
    "fedavg": FedAvg,
    "fedmf": FedMF,
    "fedncf": FedNCF,
    "pfedrec": PFedRec,
}

__all__ = ["ALGORITHMS", "FedAvg", "FedMF", "FedNCF", "PFedRec"]
