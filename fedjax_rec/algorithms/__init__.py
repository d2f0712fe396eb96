"""Published systems, one file each."""

from fedjax_rec.algorithms.fedavg import FedAvg
from fedjax_rec.algorithms.fedfm import FedFM
from fedjax_rec.algorithms.fedmf import FedMF
from fedjax_rec.algorithms.fedncf import FedNCF
from fedjax_rec.algorithms.pfedrec import PFedRec

ALGORITHMS = {
    "fedavg": FedAvg,
    "fedfm": FedFM,
    "fedmf": FedMF,
    "fedncf": FedNCF,
    "pfedrec": PFedRec,
}

__all__ = ["ALGORITHMS", "FedAvg", "FedFM", "FedMF", "FedNCF", "PFedRec"]
