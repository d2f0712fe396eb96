"""What a run would have cost on devices, in a few sentences."""

from collections.abc import Mapping
from typing import Any


def costs_in_words(costs: Mapping[str, Any], devices: Mapping[str, Any]) -> str:
    """Bytes and simulated time of a run, and who took part.

    Args:
        costs: a result's `costs`.
        devices: a result's `devices`; may be empty.
    """
    invited, arrived = costs["invited_per_round"], costs["arrived_per_round"]
    lost = ""
    if arrived < invited:
        lost = (
            f" Of {invited:,.1f} clients invited a round {arrived:,.1f} were counted; "
            "the others dropped out or came too late."
        )
    classes = ", ".join(
        f"{count:,} {name}" for name, count in (devices.get("classes") or {}).items()
    )
    short = devices.get("short_of_memory") or 0
    memory = (
        f" {short:,} clients lack the memory to train "
        f"({devices['memory_mb_needed']:,.1f} MB at most)."
        if short
        else ""
    )
    return (
        f"A client receives {size(costs['down_bytes_per_client'])} and sends "
        f"{size(costs['up_bytes_per_client'])} a round, uncompressed.{lost} "
        f"{costs['rounds']:,} rounds move {size(costs['down_bytes'])} down and "
        f"{size(costs['up_bytes'])} up, and would have taken "
        f"{duration(costs['simulated_seconds'])}, "
        f"{duration(costs['seconds_per_round'])} each, on the assumed devices"
        f"{f' ({classes})' if classes else ''}.{memory}"
    )


def size(count: float) -> str:
    """A number of bytes with its decimal unit.

    >>> size(0), size(12_345), size(3.2e9)
    ('0 B', '12.3 kB', '3.2 GB')
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    at = 0
    while round(count, 1) >= 1000 and at + 1 < len(units):
        count, at = count / 1000, at + 1
    return f"{count:,.0f} B" if at == 0 else f"{count:,.1f} {units[at]}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> duration(0.0421), duration(75), duration(7_200), duration(200_000)
    ('0.042 s', '75.0 s', '2.0 h', '2.3 days')
    """
    if seconds < 1:
        return f"{seconds:.3f} s"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds / 86_400:,.1f} days"
