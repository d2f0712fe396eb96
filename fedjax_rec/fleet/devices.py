"""Settings of the assumed devices: speed, bandwidth, memory and daily habits."""

import dataclasses
import math

HOURS = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceClass:
    """One kind of device. Rates are those left for training in the background.

    Attributes:
        name: label in reports.
        share: fraction of the population; the shares of all classes add up to 1.
        pairs_per_second: labelled pairs trained in a second, without a backbone.
        gflops: billions of operations a second, for the work a backbone adds.
        download_mbps: megabits received in a second.
        upload_mbps: megabits sent in a second.
        memory_mb: megabytes available for training.
        peak: probability of being available at the best hour.
        trough: probability of being available 12 hours later.
        peak_hour: the best hour, local time, in [0, 24).
        dropout: probability that a client that began does not finish.

    Raises:
        ValueError: a value is outside its range.
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

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[1:]:
            name, value = field.name, getattr(self, field.name)
            if name in ("share", "peak", "trough", "dropout"):
                valid, expected = 0 <= value <= 1, "lie in [0, 1]"
            elif name == "peak_hour":
                valid, expected = 0 <= value < HOURS, f"lie in [0, {HOURS})"
            else:
                valid, expected = 0 < value < math.inf, "be positive and finite"
            if not valid:
                raise ValueError(
                    f"device {self.name}: {name} must {expected}, got {value}"
                )
        if self.trough > self.peak:
            raise ValueError(
                f"device {self.name}: trough={self.trough} is above peak={self.peak}"
            )


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """The assumed devices, from which every run derives bytes and simulated time.

    Attributes:
        devices: classes of devices.
        time_zones: number of time zones, one hour apart, over which clients are spread
            evenly.
        seed: seed of each client's device and time zone.

    Raises:
        ValueError: a value is outside its range, or the shares do not add up to 1.
    """

    devices: tuple[DeviceClass, ...] = PHONES
    time_zones: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.time_zones <= HOURS:
            raise ValueError(
                f"time_zones must lie in [1, {HOURS}], got {self.time_zones}"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2**32), got {self.seed}")
        if not self.devices:
            raise ValueError("devices is empty: expected at least one DeviceClass")
        names = [device.name for device in self.devices]
        if len(set(names)) < len(names):
            raise ValueError(f"devices: names must differ, got {', '.join(names)}")
        total = sum(device.share for device in self.devices)
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"devices: the shares of {', '.join(names)} add up to {total:g}, "
                "expected 1"
            )
