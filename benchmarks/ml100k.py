"""Experiments on MovieLens 100K, or on synthetic data of its shape."""

import dataclasses
import pathlib

from fedjax_rec import Experiment, FileData, SyntheticData
from fedjax_rec.cli.config_file import load_configs
from fedjax_rec.data.folders import usual_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]


def ml100k() -> FileData | SyntheticData:
    """The data set if `FEDJAX_REC_DATA` or `../shared/data` has it, else synthetic."""
    source = "movielens-100k"
    folder = usual_folder(source) or ROOT.parent / "shared/data/ml-100k"
    if folder.exists():
        return FileData(source=source, dir=str(folder))
    return SyntheticData(num_users=943, num_items=1682, num_interactions=100_000)


def experiment_of(config: str, name: str) -> Experiment:
    """The experiment `name` of `configs/CONFIG.py`, evaluated after every round."""
    experiments = load_configs(str(ROOT / f"configs/{config}.py")).experiments
    (experiment,) = (each for each in experiments if each.name == name)
    return dataclasses.replace(experiment, data=ml100k(), eval_every=1)
