"""The last items of each user."""

import numpy as np

from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.splits import Split
from fedjax_rec.data.splits.split import histories


def test_histories_are_the_last_items_latest_first():
    # Three users; times are the order of the file.
    train = make_interactions(
        user=np.array([0, 1, 0, 0, 2, 1, 0, 2]),
        item=np.array([5, 2, 1, 4, 0, 3, 2, 1]),
        users=Entities(ids=["a", "b", "c"]),
        items=Entities(ids=list("uvwxyz")),
    )
    split = Split(train=train, val=train, test=train, name="none", info={})
    expected = [[2, 4, 1], [3, 2, 6], [1, 0, 6]]
    assert histories(split, 3).tolist() == expected
    assert histories(split, 1).tolist() == [[2], [3], [1]]
    # Items of training, and for held-out users those of their query.
    parts = train.user == 0, train.user == 1
    split = Split(
        train=train.take(parts[0]),
        val=train.take(train.user == 2),
        test=train.take(train.user == 2),
        name="cold",
        info={"query": train.take(parts[1])},
    )
    assert histories(split, 2).tolist() == [[2, 4], [3, 2], [6, 6]]
