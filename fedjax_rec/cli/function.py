"""`fedjax_rec.train`: the command `train` for Python, without a terminal."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.returned import check_interactions
from fedjax_rec.data.settings import GivenData
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.record import record
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.report.run import write_result
from fedjax_rec.runs import folder as runs
from fedjax_rec.runs.fingerprint import content_of, fingerprint
from fedjax_rec.runs.model import write_model
from fedjax_rec.runs.plain import own_files, plain
from fedjax_rec.runs.session import versions
from fedjax_rec.simulation.simulation import Simulation


class Trained(NamedTuple):
    """A finished run.

    Attributes:
        result: see `Simulation.run`.
        simulation: the simulation after its last round; `recommend` and `selected` are
            of the selected round.
    """

    result: dict[str, Any]
    simulation: Simulation


def train(
    experiment: Experiment,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
    start: str | Path | None = None,
    data: Interactions | None = None,
    progress: bool = False,
) -> Trained:
    """Builds and runs an experiment, into a folder if one is named.

    The folder is that of `fedjax-rec train` without checkpoints: `report`, `load`,
    `recommend`, `export` and a start from it work, and a stopped run cannot continue.

    Args:
        experiment: the experiment.
        output: folder of the run; `None` writes no file.
        overwrite: replace a run of the same config in it.
        start: see `build`.
        data: see `build`; they take the place of the experiment's, also in the config
            of the folder, and `load` of the folder needs the same.
        progress: show bars while the data are prepared.

    Raises:
        ValueError: the experiment or the folder is not valid.
    """
    if data is not None:
        check_interactions(data, "data")
        given = GivenData(name=data.name, content=content_of(data))
        experiment = dataclasses.replace(experiment, data=given)
    if output is not None:
        runs.check_folder(output, plain(experiment), overwrite)
    sim = build(experiment, progress=progress, data=data, start=start)
    if output is None:
        return Trained(sim.run(), sim)
    software = {**versions(), "prepared": fingerprint(sim)}
    software["own_files"] = own_files(experiment)
    if start is not None:
        software["started_from"] = str(Path(start).absolute())
    with runs.open_run(output, plain(experiment), software, overwrite) as folder:

        def listen(event: dict[str, Any]) -> None:
            folder.append(event)
            if "test" in event:  # the round that is selected so far
                folder.write_users(sim.users())
                write_model(folder, sim)

        result = sim.run(listen)
        write_result(folder, record(experiment, sim, result))
    return Trained(result, sim)
