import dataclasses
import io
import json

import pytest
from rich.console import Console

from fedjax_rec.cli import main
from fedjax_rec.evaluation.protocol import Protocol, paper_compat
from fedjax_rec.report import run as report
from fedjax_rec.report.comparison import labels_of, rows_of
from fedjax_rec.runs.folder import open_run, plain, read_run

BACKBONE = {
    "name": "minilm",
    "layers": 6,
    "width": 384,
    "dtype": "float32",
    "adapter": "lora",
    "adapter_layers": 1,
    "adapter_parameters": 12_288,
    "path": "suffix",
    "once": True,
    "shuffled": False,
    "stands_in": False,
    "message_bits": {"lora_a": 196_608, "lora_b": 196_608, "item": 8_000},
}


def make_run(
    path,
    hr=0.3,
    seed=0,
    lr=0.1,
    protocol=None,
    draws=0.1,
    auc=0.5,
    finished=True,
    backbone=None,
):
    protocol = protocol or Protocol()
    metrics = {"hr@10": hr, "ndcg@10": hr / 2, "ndcg@10/gini": 0.5}
    config = {
        "name": "x",
        "seed": seed,
        "data": {"type": "FileData", "dir": f"/somewhere/{seed}"},
        "algorithm": {"type": "FedMF", "client_lr": lr},
    }
    with open_run(path, config, {"jax": "0.10"}) as folder:
        for r in (1, 2):
            event = {"event": "round", "round": r, "loss": 1 / r, "seconds": 1.5}
            folder.append(event)
            folder.append({"event": "evaluation", "round": r, "val": metrics})
        if finished:
            result = {
                "name": "x",
                "metrics": {"val": metrics, "test": metrics},
                "selected": 2,
                "baselines": {
                    "popularity": {"hr@10": 0.2, "ndcg@10": 0.1},
                    "random": {"hr@10": 0.1, "ndcg@10": 0.05},
                    "draw_count": {
                        **{"hr@10": draws, "hr@10/chance": 0.1, "hr@10/error": 0.01},
                        **{"auc": auc, "auc/chance": 0.5, "auc/error": 0.01},
                        "ndcg@10": 0.0,
                    },
                },
                "protocol": {**plain(protocol), "split": "leave_one_out"},
                "data": {"name": "ml", "users": 9},
                **({"backbone": {**BACKBONE, **backbone}} if backbone else {}),
                "rounds": 2,
            }
            folder.write_json("result.json", result)
    return read_run(path)


def printed(*runs):
    console = Console(width=200, file=io.StringIO(), record=True)
    report.show(console, *runs)
    return console.export_text()


def test_one_run_with_its_baselines(tmp_path):
    run = make_run(tmp_path)
    for text in (printed(run), report.markdown(run)):
        for name in ("FedMF", "popularity", "random", "draw count", "0.3000", "0.2000"):
            assert name in text
        assert "WARNING" not in text
        assert "every item the user has in no earlier part" in text
        assert "Round 2 of 2 was selected." in text
        assert "s: training 3.0, evaluation 0.0, baselines 0.0." in text
    assert "| `algorithm.client_lr` | 0.1 |" in report.markdown(run)


def test_runs_that_differ_only_by_seed_are_one_line_with_spread(tmp_path):
    runs = [make_run(tmp_path / f"{s}", hr=0.2 + 0.1 * s, seed=s) for s in range(3)]
    rows = rows_of(runs)
    assert [len(row.metrics) for row in rows] == [3, 3, 3, 3]
    # 4.3027 (Student's t, 2 degrees) times .1 / sqrt(3)
    assert "0.3000 ± 0.2484" in report.markdown(*runs)
    assert "half the 95 % interval" in report.markdown(*runs)
    assert "FedMF x 3" in report.markdown(*runs)


def test_a_run_that_repeats_a_seed_is_no_second_seed(tmp_path):
    runs = [make_run(tmp_path / "a", hr=0.3), make_run(tmp_path / "b", hr=0.5)]
    row, *_ = rows_of(runs)
    assert [metrics["hr@10"] for metrics in row.metrics] == [0.3]
    warning = f"REPEATED ({tmp_path / 'b'}): the same settings and seed as "
    assert warning + str(tmp_path / "a") in " ".join(printed(*runs).split())


def test_rejected_clients_are_warned_of(tmp_path):
    run = make_run(tmp_path / "a")
    assert "REJECTED" not in printed(run)
    for event, count in zip(run.events[::2], (3, 4), strict=True):
        event["rejected_clients"] = count
    assert "3.5 clients a round" in " ".join(printed(run).split())


def test_a_baseline_counts_each_seed_once(tmp_path):
    runs = [
        make_run(tmp_path / f"{lr} {seed}", seed=seed, lr=lr, draws=draws)
        for lr, seed, draws in ((0.1, 0, 0.1), (0.1, 1, 0.3), (0.2, 0, 0.1))
    ]
    by_label = {row.label: row.metrics for row in rows_of(runs)}
    assert [m["hr@10"] for m in by_label["draw count"]] == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize(
    ("evaluated", "words"),
    [
        ("aggregated", "the aggregated parameters of the round"),
        ("tuned", "each client's own parameters after tuning of the round"),
        ("reconstructed", "parameters reconstructed from the shared ones of the round"),
    ],
)
def test_the_report_names_the_evaluated_parameters(tmp_path, evaluated, words):
    run = make_run(tmp_path, protocol=Protocol(evaluated=evaluated))
    assert words in report.markdown(run)


def test_a_run_that_started_from_another_is_no_repetition_of_a_fresh_one(tmp_path):
    fresh, started = (make_run(tmp_path / name) for name in ("fresh", "started"))
    started.versions["started_from"] = "/runs/a"
    rows = [row for row in rows_of([fresh, started]) if not row.baseline]
    assert [row.label for row in rows] == ["FedMF", "FedMF started_from=/runs/a"]
    assert "REPEATED" not in printed(fresh, started)


def test_runs_that_differ_otherwise_have_different_labels(tmp_path):
    runs = [make_run(tmp_path / f"{lr}", lr=lr) for lr in (0.1, 0.3)]
    assert labels_of([[run] for run in runs]) == [
        "FedMF client_lr=0.1",
        "FedMF client_lr=0.3",
    ]


def test_different_protocols_are_loudly_not_comparable(tmp_path):
    clean = make_run(tmp_path / "a")
    other = make_run(tmp_path / "b", protocol=Protocol(ties="random"))
    text = " ".join(printed(clean, other).split())
    assert "NOT COMPARABLE" in text
    assert "protocol.ties: pessimistic in A, random in B" in text
    assert text.count("popularity") == 2  # a table each, with its own baselines


def test_a_result_of_version_0_1_is_comparable(tmp_path):
    old = make_run(tmp_path / "a")
    result = json.loads((old.path / "result.json").read_text())
    result["protocol"]["watch"] = result["protocol"].pop("exposed_item")
    (old.path / "result.json").write_text(json.dumps(result))
    text = printed(read_run(old.path), make_run(tmp_path / "b", seed=1))
    assert "NOT COMPARABLE" not in text
    assert "FedMF x 2" in text


def test_the_compatible_preset_and_a_leak_are_warned_of(tmp_path):
    run = make_run(tmp_path, protocol=paper_compat(), draws=0.58)
    for text in (printed(run), report.markdown(run)):
        assert "PAPER-COMPAT" in text
        assert "THE NEGATIVES LEAK" in text
        flat = " ".join(text.split())
        assert "HR@10 = 0.580 (chance 0.100, standard error 0.010)" in flat


@pytest.mark.parametrize(
    ("hr", "auc", "leaks"),
    [(0.139, 0.539, ()), (0.141, 0.5, ("HR@10",)), (0.1, 0.541, ("AUC",))],
)
def test_a_leak_is_four_standard_errors_above_chance(tmp_path, hr, auc, leaks):
    text = report.markdown(make_run(tmp_path, draws=hr, auc=auc))
    assert ("THE NEGATIVES LEAK" in text) == bool(leaks)
    for name in ("HR@10", "AUC"):
        assert (f"{name} = " in text) == (name in leaks)


def test_the_pool_of_negatives_is_named(tmp_path):
    run = make_run(tmp_path, protocol=Protocol(candidates="cold"))
    text = report.markdown(run)
    assert "from outside the user's training items and the held-out items;" in text


def test_a_model_below_popularity_is_remarked(tmp_path):
    assert "does not beat popularity" in printed(make_run(tmp_path, hr=0.15))


def test_a_backbone_is_reported_with_its_messages(tmp_path):
    run = make_run(tmp_path / "a", backbone={"name": "minilm"})
    for text in (" ".join(printed(run).split()), report.markdown(run)):
        assert "Backbone minilm (6 layers of width 384, float32)" in text
        assert "lora of 12,288 parameters in the last 1 of 6 layers" in text
        assert "path suffix, items encoded once a round" in text
        assert "Without a codec a client sends 50.2 kB a round" in text
        assert "lora_a 24.6, lora_b 24.6, item 1.0" in text
        assert "SHUFFLED" not in text
        assert "WARNING" not in text
    shuffled = make_run(tmp_path / "b", backbone={"shuffled": True})
    assert "texts were SHUFFLED" in report.markdown(shuffled)


def test_a_stand_in_is_warned_of_and_kept_apart(tmp_path):
    facts = {"name": "tiny", "stands_in": True, "warning": "tiny stands in for minilm"}
    stood_in = make_run(tmp_path / "a", backbone=facts)
    for text in (" ".join(printed(stood_in).split()), report.markdown(stood_in)):
        assert "WARNING" in text
        assert "tiny stands in for minilm" in text
    # Another seed with the real thing is not averaged with it.
    real = make_run(tmp_path / "b", seed=1, backbone={"name": "minilm"})
    rows = rows_of([stood_in, real])
    assert [len(row.metrics) for row in rows if not row.baseline] == [1, 1]


def test_a_split_by_the_order_of_lines_is_warned_of(tmp_path):
    run = make_run(tmp_path / "a")
    data = {"name": "csv", "untimed": "8 interactions have no timestamps"}
    run = dataclasses.replace(run, result={**(run.result or {}), "data": data})
    for text in (" ".join(printed(run).split()), report.markdown(run)):
        assert text.count("8 interactions have no timestamps") == 1
        assert "NO TIMESTAMPS" in text


def test_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)]
    report.plot_curves(runs, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_reads_folders_of_folders_and_leaves_out_the_unfinished(
    tmp_path, capsys
):
    for name, finished in (("a", True), ("b", False)):
        make_run(tmp_path / "runs" / name, finished=finished)
    out = tmp_path / "out"
    assert main(["report", str(tmp_path / "runs"), "--output", str(out)]) == 0
    text = capsys.readouterr().out
    assert "left out" in text
    assert "2 rounds" in text
    assert "| FedMF |" in (out / "comparison.md").read_text()
    assert sorted(p.name for p in out.iterdir()) == ["comparison.md", "curves.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no folder"), ({}, "no config.json")],
)
def test_a_folder_without_a_run_is_refused(tmp_path, capsys, content, message):
    path = tmp_path / "run"
    if content is not None:
        path.mkdir()
        (path / "notes.json").write_text(json.dumps(content))
    assert main(["report", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_the_files_of_a_sweep_are_left_out_among_folders(tmp_path, capsys):
    make_run(tmp_path / "a")
    files = [tmp_path / name for name in ("client_lr.png", "table.csv")]
    for file in files:
        file.write_text("")
    assert main(["report", *map(str, tmp_path.iterdir())]) == 0
    assert "left out: 2 files among the folders" in capsys.readouterr().out
    assert main(["report", *map(str, files)]) == 2
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 2


def with_result(run, **more):
    return dataclasses.replace(run, result={**run.result, **more})


def test_the_legend_says_what_the_dispersion_is_of(tmp_path):
    users = make_run(tmp_path / "a")
    clients = with_result(users, dispersion_over="clients")
    assert "Gini: of the users' NDCG" in printed(users)
    text = " ".join(printed(clients).split())
    assert "of the clients' mean (they hold several users) NDCG" in text


@pytest.mark.parametrize(("since", "first"), [(1, True), (4, False)])
def test_a_run_that_diverged_at_once_has_other_advice(tmp_path, since, first):
    run = with_result(make_run(tmp_path / "a"), diverged_in_round=since)
    text = " ".join(printed(run).split())
    assert f"stopped at round {since}" in text
    assert ("look for logarithms, divisions and roots" in text) == first
    assert "lower the learning rates" in text


def with_code(run, digest, **fields):
    origin = {"file": "mine.py", "sha256": digest * 16}
    algorithm = {**run.config["algorithm"], "defined_in": origin, **fields}
    return dataclasses.replace(run, config={**run.config, "algorithm": algorithm})


def test_labels_have_the_code_only_if_nothing_else_differs(tmp_path):
    run = make_run(tmp_path / "a")
    a, b = with_code(run, "0123"), with_code(run, "4567", client_lr=0.2)
    assert labels_of([[a], [b]]) == ["FedMF client_lr=0.1", "FedMF client_lr=0.2"]
    c = with_code(run, "89ab")
    assert labels_of([[a], [c]]) == ["FedMF mine.py 01230123", "FedMF mine.py 89ab89ab"]
