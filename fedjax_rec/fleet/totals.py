"""Costs of a whole run."""

from collections.abc import Mapping, Sequence
from typing import Any


def summarise_costs(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Totals and means over the rounds of a run.

    Args:
        history: the run's events; rounds carry the values of `round_costs`.

    Returns:
        `rounds`; totals `down_bytes`, `up_bytes`, `simulated_seconds`; means
        `invited_per_round`, `arrived_per_round`, `down_bytes_per_client` (per invited
        client), `up_bytes_per_client` (per client that arrived), `seconds_per_round`.
        Empty if no round carries costs.
    """
    rounds = [event for event in history if "simulated_seconds" in event]
    if not rounds:
        return {}
    names = ("invited", "arrived", "down_bytes", "up_bytes", "simulated_seconds")
    total = {name: float(sum(event[name] for event in rounds)) for name in names}
    invited, arrived = total.pop("invited"), total.pop("arrived")
    return {
        "rounds": len(rounds),
        **total,
        "invited_per_round": invited / len(rounds),
        "arrived_per_round": arrived / len(rounds),
        "down_bytes_per_client": total["down_bytes"] / max(invited, 1),
        "up_bytes_per_client": total["up_bytes"] / max(arrived, 1),
        "seconds_per_round": total["simulated_seconds"] / len(rounds),
    }
