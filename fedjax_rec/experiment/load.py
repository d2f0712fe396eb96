"""A trained model from the folder of a run, in any process."""

import dataclasses
from pathlib import Path
from typing import Any

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.own_module import loaded_modules
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.experiment.stored import located, stored_experiment
from fedjax_rec.runs.fingerprint import fingerprint
from fedjax_rec.runs.folder import Run, check_same, read_run
from fedjax_rec.runs.model import read_model, with_arrays
from fedjax_rec.runs.start import check_names
from fedjax_rec.simulation.parameters import parameters_of, put
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.storage.errors import FileError


@dataclasses.dataclass
class TrainedModel:
    """A run's model at its selected round.

    Attributes:
        path: folder of the run.
        experiment: the experiment.
        result: content of `result.json`; empty if the run is not finished.
        simulation: a simulation with the model's parameters. It evaluates and
            recommends; rounds would start without the server optimizer's state.
    """

    path: Path
    experiment: Experiment
    result: dict[str, Any]
    simulation: Simulation

    def recommend(self, user: Any = None, k: int = 10, **options: Any) -> Any:
        """See `Simulation.recommend`."""
        return self.simulation.recommend(user, k, **options)


def experiment_of(run: Run) -> Experiment:
    """The experiment of a run, from its `config.json`.

    Raises:
        UserError: it is not an experiment of this version of fedjax_rec, or of files
            that have changed.
    """
    files = run.versions.get("own_files", ())
    return stored_experiment(run.config, str(run.path), loaded_modules(), files)


def load(
    path: str | Path, *, data: Interactions | None = None, progress: bool = False
) -> TrainedModel:
    """The model of a run's selected round; reading changes no file of the run.

    The data and the system are built from the run's config; parameters come from its
    folder `model`.

    Args:
        path: folder of a run that `fedjax-rec train` or `fedjax_rec.train` wrote.
        data: the interactions of the run, if they are loaded already.
        progress: show bars for work of more than two seconds.

    Raises:
        FileError: the folder holds no run or no model, or the data have changed.
        UserError: the config does not fit this version of the package.
    """
    path = Path(path)
    stored, run = read_model(path), read_run(path)
    experiment = experiment_of(run)
    there = located(experiment, run)
    try:
        simulation = build(there, data=data, progress=progress)
    except FileError as error:
        # Its advice is for a run that begins: it names flags and arguments of those.
        problem = str(error).partition(". Pass dir=")[0]
        if problem == str(error):
            raise
        began = run.versions.get("working_folder", "the folder that it began in")
        raise FileError(
            f"{path}: its data cannot be read: {problem}. Relative paths are taken "
            f"from {began}, then from here. Put the data there, or in Python pass "
            "data=, the interactions"
        ) from error
    old = dict(run.versions.get("prepared") or {})
    new = fingerprint(simulation)
    for changing in ("chunks", "start"):  # of the machine, and of the training
        old.pop(changing, None)
        new.pop(changing, None)
    fix = "Restore the data and the backbone, or train again"
    check_same(path, "was trained on other data (hashes)", old, new, fix)
    like = parameters_of(simulation)._replace(round=stored.ids["round"])
    if lines := check_names(like, stored.arrays):
        raise FileError(f"{path} holds other parameters than its system:\n{lines}")
    parameters = with_arrays(like, stored.arrays)
    put(simulation, parameters)
    simulation.selected = parameters
    return TrainedModel(path, experiment, run.result or {}, simulation)
