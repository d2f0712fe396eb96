"""Settings chosen by Optuna's TPE; the only module that imports Optuna."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from fedjax_rec.storage.errors import UserError
from fedjax_rec.sweep.space import Draw

Values = dict[str, Any]


def check_optuna() -> None:
    """Raises a UserError where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "--optuna needs Optuna: pip install 'fedjax-rec[sweep]' (or --points N, "
            "which draws at random)"
        )


def choose(
    draws: Sequence[Draw],
    count: int,
    batch: int,
    seed: int,
    before: Sequence[tuple[Values, float]],
    run: Callable[[list[Values]], list[float | None]],
) -> None:
    """Tries `count` settings, each batch chosen by what the ones before it reached.

    Args:
        draws: the fields and their ranges.
        count: settings in all, those of `before` included.
        batch: settings that run beside one another; none of them knows the others'
            result.
        seed: of the sampler.
        before: settings tried already, with their validation metric.
        run: tries a batch; its validation metrics, higher is better, `None` where a
            setting failed.

    References:
        Akiba et al., Optuna, KDD 2019. Bergstra et al., Algorithms for Hyper-Parameter
        Optimization (TPE), NeurIPS 2011.
    """
    check_optuna()
    import optuna  # pyright: ignore[reportMissingImports]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Continued with the first seed, the random ones among its choices would repeat.
    sampler = optuna.samplers.TPESampler(seed=seed + len(before), constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions: dict[str, Any] = {d.field: _distribution(d) for d in draws}
    for values, metric in before:
        trial = optuna.trial.create_trial(
            params=dict(values), distributions=distributions, value=metric
        )
        study.add_trial(trial)
    done = len(before)
    while done < count:
        trials = [study.ask(distributions) for _ in range(min(batch, count - done))]
        found = run([_rounded(trial.params) for trial in trials])
        for trial, metric in zip(trials, found, strict=True):
            failed = optuna.trial.TrialState.FAIL if metric is None else None
            study.tell(trial, metric, state=failed)
        done += len(trials)


def _distribution(draw: Draw) -> Any:
    from optuna.distributions import (  # pyright: ignore[reportMissingImports]
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if draw.kind == "choice":
        return CategoricalDistribution(draw.values)
    if draw.whole:
        return IntDistribution(int(draw.low), int(draw.high), log=draw.kind == "log")
    return FloatDistribution(draw.low, draw.high, log=draw.kind == "log")


def _rounded(params: Values) -> Values:
    """To six digits, so that a value reads the same in names and tables."""
    return {
        field: float(f"{value:.6g}") if isinstance(value, float) else value
        for field, value in params.items()
    }
