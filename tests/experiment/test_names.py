"""Unknown names of fields lead to valid ones."""

import pytest

from fedjax_rec import Experiment, FedAvg, FileData
from fedjax_rec.experiment.fields import fields_of
from fedjax_rec.experiment.names import find
from fedjax_rec.storage.errors import UserError

FIELDS = fields_of(Experiment(name="x", algorithm=FedAvg(), data=FileData()))


def refused(name, *values):
    with pytest.raises(UserError) as caught:
        find(FIELDS, name, values)
    return str(caught.value)


def test_names_are_those_of_python():
    assert find(FIELDS, "algorithm.item-lr-scale") == "algorithm.item_lr_scale"
    assert find(FIELDS, "eval_every") == "eval_every"
    assert find(FIELDS, "codec") == "codec"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("protocol.tis", "--protocol.ties"),
        ("algoritm.dim", "--algorithm.model.dim"),
        ("algorithm.dim", "--algorithm.model.dim"),
        ("algorithm.bach-size", "--algorithm.batch-size"),
        ("algorithm.epochs", "--algorithm.local-epochs"),
        ("round", "--rounds"),
        ("ties", "--split.ties"),
        ("client-optimizer.lr", "--algorithm.client-optimizer.lr"),
        ("mesh.device", "--mesh.devices"),
    ],
)
def test_a_misspelt_name_leads_to_the_nearest(name, nearest):
    message = refused(name, "1")
    assert message.startswith(f"there is no field --{name}. The nearest: {nearest}")


def test_the_part_that_was_named_comes_first():
    # `rounds` is a field of the experiment.
    assert refused("data.rounds").endswith(
        "The fields of data: --data.source, --data.dir, --data.cache, "
        "--data.min-interactions, --data.top-items, --data.first-users, "
        "--data.download, --data.order"
    )
    assert "--algorithm.client-optimizer.lr" in refused("algorithm.lr")
    assert "backbone" not in refused("algorithm.lr")
    message = refused("algorithm.client-optimizer.decay")
    assert "The fields of algorithm.client-optimizer: --algorithm.client-op" in message


def test_a_field_of_another_kind_names_the_kinds():
    assert refused("cohort.size", "3").endswith(
        "size is a field of --cohort uniform, poisson, weighted, available; this "
        "cohort is all"
    )
    # Misspelt, too.
    assert "size is a field of --cohort uniform" in refused("cohort.siz")
    message = refused("algorithm.server-optimizer.tau")
    assert "tau is a field of --algorithm.server-optimizer fedadam, fedy" in message
    assert "length" not in refused("algorithm.users.lenght")  # FedAvg's is a word


def test_a_field_of_a_part_that_is_none():
    message = refused("wrapper.clusters", "3")
    assert "clusters is a field of --wrapper ifca, clustered_by_profile" in message
    assert message.endswith("this wrapper is none")
    message = refused("wrapper.xyzzy")
    assert "wrapper is none; choose --wrapper scaffold, ifca" in message


def test_a_name_like_no_other_still_leads_on():
    message = refused("xyzzy")
    assert "The nearest: --" in message
    assert message.endswith("--help lists all")


def test_old_names_lead_to_the_present_ones():
    assert refused("algorithm.client-lr", "0.3").startswith(
        "--algorithm.client-lr is now --algorithm.client-optimizer.lr"
    )
    assert refused("cohort.sampling", "poisson") == (
        "--cohort.sampling is now --cohort poisson"
    )
