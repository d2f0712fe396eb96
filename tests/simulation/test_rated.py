"""Explicit ratings: a run is selected by its validation error."""

import fedjax_rec as fr

RATED = fr.Experiment(
    name="rated",
    data=fr.SyntheticData(num_users=24, num_items=30, num_interactions=300),
    algorithm=fr.FedMF(feedback="explicit", dim=4, client_lr=0.05),
    execution=fr.Execution(max_buckets=1),
    mesh=fr.MeshConfig(devices=1),
    rounds=6,
    eval_every=1,
)


def test_the_round_of_the_lowest_validation_rmse_is_selected(monkeypatch):
    simulation, parts = fr.build(RATED), []
    assert simulation.protocol.selection == "rmse"
    script = iter([3.0, 2.0, 2.5, 2.0, 1.0, 1.5])

    def rmse(part):
        parts.append(part)
        return next(script) if part == "val" else 9.0

    monkeypatch.setattr(simulation, "rmse", rmse)
    result = simulation.run()
    assert result["selected"] == 5
    assert result["protocol"]["selection"] == "rmse"
    assert result["metrics"]["val"]["rmse"] == 1.0
    seen = [e["round"] for e in result["history"] if "rmse_test" in e]
    assert seen == [1, 2, 5]
    assert seen == [e["round"] for e in result["history"] if "test" in e]
    assert (parts.count("val"), parts.count("test")) == (6, 3)
