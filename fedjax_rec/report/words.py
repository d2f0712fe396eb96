"""Sentences about a result: protocol, backbone, costs and seconds."""

from collections.abc import Mapping
from typing import Any


def protocol_in_words(protocol: Mapping[str, Any]) -> str:
    """A sentence on how a result was obtained."""
    ranked = {
        "full": "every item the user has in no earlier part is ranked",
        "cold": "the held-out items, which no client trained on, are ranked",
        "sampled": f"each positive is ranked among {protocol['num_candidates']} "
        "sampled items the user never touched",
    }[protocol["candidates"]]
    pool = "the user's training"
    if protocol["negative_pool"] != "not_train":
        pool += ", validation and test"
    pool += " items"
    if protocol["candidates"] == "cold":
        pool += " and the held-out items"
    evaluated = {
        "aggregated": "the aggregated parameters",
        "tuned": "each client's own parameters after tuning",
        "reconstructed": "parameters reconstructed from the shared ones",
    }[protocol["evaluated"]]
    selection = protocol["selection"]
    chosen = f"the round with the best validation {selection}"
    lower = (protocol.get("metric") or {}).get("lower_is_better", ())
    if selection == "rmse" or selection in lower:
        name = selection.replace("rmse", "RMSE")
        chosen = f"the round with the lowest validation {name}"
    if selection == "last":
        chosen = "the last round"
    return (
        f"Protocol ({protocol['preset']}): split {protocol.get('split', 'unknown')}; "
        f"{ranked}; ties {protocol['ties']}; training negatives from outside {pool}; "
        f"{evaluated} of {chosen}."
    )


def backbone_in_words(facts: Mapping[str, Any]) -> str:
    """Sentences on the foundation model, its adapter, and a client's message."""
    adapter = "no adapter"
    if facts["adapter"] != "none":
        site = "on the embedding"
        if facts["adapter_layers"]:
            site = f"in the last {facts['adapter_layers']} of {facts['layers']} layers"
        count = facts["adapter_parameters"]
        adapter = f"{facts['adapter']} of {count:,} parameters {site}"
    shuffled = ""
    if facts["shuffled"]:
        shuffled = " The texts were SHUFFLED: every item got another one's."
    bits = facts["message_bits"]
    parts = ", ".join(f"{name} {count / 8000:,.1f}" for name, count in bits.items())
    return (
        f"Backbone {facts['name']} ({facts['layers']} layers of width "
        f"{facts['width']}, {facts['dtype']}), {adapter}; path {facts['path']}, items "
        f"encoded {'once a round' if facts['once'] else 'by each client'}.{shuffled} "
        f"Without a codec a client sends {sum(bits.values()) / 8000:,.1f} kB a round: "
        f"{parts}."
    )


def costs_in_words(costs: Mapping[str, Any], devices: Mapping[str, Any]) -> str:
    """Sentences on bytes, simulated time and participants of a run.

    Args:
        costs: a result's `costs`.
        devices: a result's `devices`; may be empty.
    """
    invited, arrived = costs["invited_per_round"], costs["arrived_per_round"]
    lost = memory = ""
    if arrived < invited:
        lost = (
            f" Of {invited:,.1f} clients invited a round {arrived:,.1f} were counted; "
            "the others dropped out or came too late."
        )
    if short := devices.get("short_of_memory"):
        memory = (
            f" {short:,} clients lack the memory to train "
            f"({devices['memory_mb_needed']:,.1f} MB at most)."
        )
    counts = (devices.get("classes") or {}).items()
    classes = ", ".join(f"{count:,} {name}" for name, count in counts)
    return (
        f"A client receives {size(costs['down_bytes_per_client'])} and sends "
        f"{size(costs['up_bytes_per_client'])} a round.{lost} "
        f"{costs['rounds']:,} rounds move {size(costs['down_bytes'])} down and "
        f"{size(costs['up_bytes'])} up, and would have taken "
        f"{duration(costs['simulated_seconds'])}, "
        f"{duration(costs['seconds_per_round'])} each, on the assumed devices"
        f"{f' ({classes})' if classes else ''}.{memory}"
    )


def seconds_in_words(seconds: Mapping[str, float]) -> str:
    """A sentence on the time a run took; empty without `timings.jsonl`."""
    if not seconds:
        return ""
    kinds = {"train": "training", "evaluate": "evaluation", "baselines": "baselines"}
    parts = [f"{word} {seconds.get(kind, 0):.1f}" for kind, word in kinds.items()]
    times = int(seconds["lives"]) - 1
    again = f", resumed {times} time{'s' * (times > 1)}" if times else ""
    return f"{seconds['total']:.1f} s{again}: {', '.join(parts)}."


def size(count: float) -> str:
    """A number of bytes with its decimal unit.

    >>> size(0), size(12_345), size(3.2e9)
    ('0 B', '12.3 kB', '3.2 GB')
    """
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    while round(count, 1) >= 1000 and len(units) > 1:
        count, units = count / 1000, units[1:]
    return f"{count:,.0f} B" if units[0] == "B" else f"{count:,.1f} {units[0]}"


def duration(seconds: float) -> str:
    """A time in a suitable unit.

    >>> duration(0.0421), duration(75), duration(7_200), duration(200_000)
    ('0.042 s', '75.0 s', '2.0 h', '2.3 days')
    """
    if seconds < 1:
        return f"{seconds:.3f} s"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds / 86_400:,.1f} days"
