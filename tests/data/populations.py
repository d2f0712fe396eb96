"""Small interactions for tests of descriptions and plots."""

import numpy as np

from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.synthetic import synthetic

TRAIN = synthetic(1, num_users=60, num_items=200, num_interactions=1200)


def toy():
    return make_interactions(
        user=np.array([0, 0, 0, 2]),
        item=np.array([0, 1, 2, 0]),
        rating=np.array([1, 1, 2, 2]),
        users=Entities(ids=["a", "b", "c"]),
        items=Entities(ids=[str(i) for i in range(10)]),
        notes={"bad_lines": 3},
    )
