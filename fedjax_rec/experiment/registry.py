"""The parts of an experiment that come in several kinds."""

import typing

from fedjax_rec.experiment.build import Experiment

CHOICES = {
    field: {kind.__name__: kind for kind in typing.get_args(hint)}
    for field, hint in typing.get_type_hints(Experiment).items()
    if field in ("data", "algorithm")
}
"""The parts of an experiment that come in several kinds, by name."""
