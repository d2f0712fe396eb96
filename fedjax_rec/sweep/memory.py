"""How many points of a sweep fit beside one another."""

import re
from pathlib import Path
from typing import Any

from fedjax_rec.storage.errors import UserError

CPU_MOST = 8
"""Points of one `vmap` on a CPU: measured no faster beyond, see docs/sweeps.md."""
ACCELERATOR_MOST = 256
"""Each point keeps two files open."""

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def read_bytes(text: str) -> int:
    """`4G` in bytes.

    >>> read_bytes("1.5k")
    1536
    """
    match = re.fullmatch(r"([\d.]+)\s*([kmg]?)(i?b)?", text.strip().lower())
    try:
        size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    except ValueError:
        size = 0
    if size < 1:
        raise UserError(f"--memory {text}: expected bytes such as 500M or 4G")
    return size


def free_bytes(device: Any) -> int:
    """Free memory of a device; for a CPU what the system has available."""
    stats = device.memory_stats() or {} if device.platform != "cpu" else {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) * 1024  # pyright: ignore[reportOptionalSubscript]
    except (OSError, TypeError):
        return 4 * 2**30  # a modest machine whose system does not tell


def most_points(per_point: int, devices: list[Any], memory: int = 0) -> int:
    """How many points each device may hold at once; at least one.

    Args:
        per_point: bytes.
        devices: that share the points.
        memory: budget of all of them in bytes; 0 is half of what is free.
    """
    on_cpu = devices[0].platform == "cpu"
    budget = memory or free_bytes(devices[0]) * (1 if on_cpu else len(devices)) // 2
    cap = CPU_MOST if on_cpu else ACCELERATOR_MOST
    return max(1, min(cap, budget // len(devices) // max(per_point, 1)))
