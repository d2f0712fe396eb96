"""Devices that clients run on: classes with speed, bandwidth, memory and habits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceClass:
    """One kind of device. All rates are what is left for training, in the background.

    Attributes:
        name: for reports.
        share: of the population; the shares of all classes add up to 1.
        pairs_per_second: labelled pairs trained in a second, without a backbone.
        gflops: billions of operations a second, for what a backbone adds.
        download_mbps: megabits a second received.
        upload_mbps: megabits a second sent.
        memory_mb: megabytes that training may take.
        peak: probability of being available at the best hour.
        trough: the same 12 hours later.
        peak_hour: the best hour, local time, in [0, 24).
        dropout: probability that a client that began does not finish.
    """

    name: str
    share: float
    pairs_per_second: float
    gflops: float
    download_mbps: float
    upload_mbps: float
    memory_mb: float
    peak: float = 0.2
    trough: float = 0.05
    peak_hour: float = 2.0
    dropout: float = 0.08


PHONES = (
    DeviceClass(
        name="low",
        share=0.3,
        pairs_per_second=2_000,
        gflops=2,
        download_mbps=5,
        upload_mbps=1,
        memory_mb=64,
        dropout=0.1,
    ),
    DeviceClass(
        name="mid",
        share=0.5,
        pairs_per_second=5_000,
        gflops=10,
        download_mbps=20,
        upload_mbps=5,
        memory_mb=256,
    ),
    DeviceClass(
        name="high",
        share=0.2,
        pairs_per_second=10_000,
        gflops=30,
        download_mbps=50,
        upload_mbps=20,
        memory_mb=512,
        dropout=0.06,
    ),
)
"""Round numbers for phones: assumptions, not measurements (docs/participation.md)."""


def check_devices(devices: tuple[DeviceClass, ...]) -> None:
    """Raises a ValueError for device classes that cannot be."""
    if not devices:
        raise ValueError("cohort.devices is empty: expected at least one DeviceClass")
    names = [device.name for device in devices]
    if len(set(names)) < len(names):
        raise ValueError(f"cohort.devices: names must differ, got {', '.join(names)}")
    for device in devices:
        place = f"cohort.devices: {device.name}"
        for field in dataclasses.fields(device):
            value = getattr(device, field.name)
            if field.name != "name" and not np.isfinite(value):
                raise ValueError(f"{place}: {field.name} must be finite, got {value}")
        for name in ("share", "trough", "peak", "dropout"):
            value = getattr(device, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{place}: {name} must lie in [0, 1], got {value}")
        for name in (
            "pairs_per_second",
            "gflops",
            "download_mbps",
            "upload_mbps",
            "memory_mb",
        ):
            value = getattr(device, name)
            if value <= 0:
                raise ValueError(f"{place}: {name} must be positive, got {value}")
        if device.trough > device.peak:
            raise ValueError(
                f"{place}: trough={device.trough} is above peak={device.peak}"
            )
        if not 0 <= device.peak_hour < 24:
            raise ValueError(
                f"{place}: peak_hour must lie in [0, 24), got {device.peak_hour}"
            )
    total = sum(device.share for device in devices)
    if abs(total - 1) > 1e-6:
        raise ValueError(
            f"cohort.devices: the shares of {', '.join(names)} add up to {total:g}, "
            "expected 1"
        )


def class_ends(devices: tuple[DeviceClass, ...]) -> np.ndarray:
    """`[K - 1]` uint32: where in the 32-bit words each class but the last ends."""
    ends = np.cumsum([device.share for device in devices])[:-1]
    return np.round(np.clip(ends, 0, 1) * (2.0**32 - 1)).astype(np.uint32)


def device_of(ids: Array, ends: Array, zones: int, seed: int) -> tuple[Array, Array]:
    """A client's device class and time zone, which are its own for good.

    They are random words of its id, so that nothing is stored, and independent of
    what it holds.

    Args:
        ids: `[n]` int32.
        ends: from `class_ends`.
        zones: time zones, equally likely.
        seed: of the assignment.

    Returns:
        Class `[n]` and zone `[n]`, int32.
    """
    root = jax.random.key(seed)

    def words(client: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(root, client), (2,), jnp.uint32)

    drawn = jax.vmap(words)(ids)
    kind = jnp.searchsorted(ends, drawn[:, 0], side="right").astype(jnp.int32)
    return kind, (drawn[:, 1] % zones).astype(jnp.int32)
