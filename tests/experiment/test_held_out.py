"""Refusals of users who take part in no round."""

import dataclasses

import pytest

import fedjax_rec as fr

SMALL = fr.Experiment(
    name="held out",
    data=fr.SyntheticData(num_users=40, num_items=60, num_interactions=900),
    algorithm=fr.FedAvg(model=fr.MatrixFactorization(dim=4), proximal=0.01),
    split=fr.ColdUsers(),
    mesh=fr.MeshConfig(devices=1),
    store=fr.StoreConfig(cache=False),
)


@pytest.mark.parametrize("evaluated", ["tuned", "aggregated"])
def test_models_by_client_have_none_for_new_users(evaluated):
    """The refusal names no setting of the protocol: none of them would help."""
    protocol = fr.Protocol(evaluated=evaluated)
    changed = dataclasses.replace(SMALL, wrapper=fr.FedAMP(), protocol=protocol)
    with pytest.raises(ValueError, match="by facts of each trained client") as error:
        fr.build(changed)
    assert "protocol.evaluated" not in str(error.value)
