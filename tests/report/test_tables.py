"""Tables in a narrow terminal."""

import io

import pytest
from rich.console import Console

from fedjax_rec.report.tables import Table

LABEL = "x: FedAvg client_optimizer.momentum=0.9, aggregation.type=GeometricMedian"


@pytest.mark.parametrize("columns", [2, 4, 8])
@pytest.mark.parametrize("label", [LABEL, "a_name_without_any_space_" * 3])
def test_no_cell_is_cut(columns, label):
    cell = "0.1234 ± 0.0123"
    console = Console(width=80, file=io.StringIO(), record=True)
    heads = ["test", *(f"NDCG@{k}" for k in range(columns))]
    Table(heads, [[label, *[cell] * columns]], [""]).print(console)
    text = console.export_text()
    assert "…" not in text
    assert text.count(cell) == columns
    for heading in heads:
        assert heading in text
    rest = text.replace(cell, "")
    assert label.replace(" ", "") in "".join(rest.split())
    if columns == 2:
        assert max(map(len, text.splitlines())) <= 80
