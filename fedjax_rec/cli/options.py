"""Options of the commands that train."""

import dataclasses
from pathlib import Path

from fedjax_rec.storage.errors import UserError
from fedjax_rec.transfer.config import FewShot, Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When a run saves its state, which changes no result.

    Attributes:
        every: rounds between checkpoints; 0 for none, by default at each evaluation.
        keep: number of last checkpoints to keep, in addition to the selected round's.
    """

    every: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 0:
            raise UserError(
                f"--checkpoint.every must not be negative, got {self.every}"
            )
        if self.keep < 1:
            raise UserError(f"--checkpoint.keep must be at least 1, got {self.keep}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Options of `train`.

    Attributes:
        output: folder of the run; by default runs/NAME-ALGORITHM-DATA-sSEED.
        overwrite: replace a run of the same config.
        quiet: no progress; only the table at the end, and warnings.
        distributed: this is one of several processes of the run; the first writes.
        coordinator: HOST:PORT of process 0, which the others must reach; empty if
            Slurm, Open MPI, Kubernetes or a TPU pod provide it (docs/clusters.md).
        processes: number of processes; with a coordinator.
        process_id: number of this process, from 0; with a coordinator.
        resume: folder of a run to continue; CONFIG is not needed.
        accept_versions: resume under other software or on another machine.
        skip_damaged: resume from an older checkpoint if files of newer ones have
            changed; those are kept in checkpoints/set-aside.
        checkpoint: when state is saved.
        track: trackers that receive the run's events: tensorboard, wandb.
        profile: number of rounds to profile after compiling.
        plugin: Python files with further kinds of parts (docs/extending.md).
        start_from: folder of a run, or of an export; training starts from its
            parameters, with items and users matched by their ids.
    """

    output: Path | None = None
    overwrite: bool = False
    quiet: bool = False
    distributed: bool = False
    coordinator: str = ""
    processes: int = 0
    process_id: int = -1
    resume: Path | None = None
    accept_versions: bool = False
    skip_damaged: bool = False
    checkpoint: CheckpointOptions = dataclasses.field(default_factory=CheckpointOptions)
    track: tuple[str, ...] = ()
    profile: int = 0
    plugin: tuple[str, ...] = ()
    start_from: Path | None = None

    def __post_init__(self) -> None:
        if self.profile < 0:
            raise UserError(
                f"--profile {self.profile}: expected a number of rounds, from 1"
            )
        if self.resume is not None and (self.output or self.overwrite):
            raise UserError(
                "--resume continues a run in its own folder: leave out --output and "
                "--overwrite"
            )
        if self.resume is not None and self.start_from is not None:
            raise UserError(
                "--resume continues a run from its own checkpoint, and remembers what "
                "it started from: leave out --start-from"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """Options of `transfer`.

    Attributes:
        target: the data set that is transferred to.
        few_shot: the local steps of target clients.
        output: folder of the run; by default runs/NAME-ALGORITHM-DATA-sSEED-to-TARGET.
        overwrite: replace a run of the same config.
        plugin: Python files with further kinds of parts (docs/extending.md).
        quiet: no progress; only the table at the end, and warnings.
    """

    target: Target = dataclasses.field(default_factory=Target)
    few_shot: FewShot = dataclasses.field(default_factory=FewShot)
    output: Path | None = None
    overwrite: bool = False
    plugin: tuple[str, ...] = ()
    quiet: bool = False
