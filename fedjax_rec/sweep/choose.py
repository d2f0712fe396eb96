"""Settings chosen by Optuna's TPE; the only module that imports Optuna."""

from collections.abc import Callable, Sequence
from typing import Any

from fedjax_rec.sweep.space import Draw

Values = dict[str, Any]


def choose(
    draws: Sequence[Draw],
    count: int,
    batch: int,
    seed: int,
    before: Sequence[tuple[Values, float]],
    run: Callable[[list[Values]], list[float | None]],
) -> None:
    """Tries `count` settings, each batch chosen by the results of earlier ones.

    Args:
        draws: fields and their ranges.
        count: number of settings, including those of `before`.
        batch: settings that run side by side, chosen without one another's results.
        seed: seed of the sampler.
        before: settings tried already, with their validation metric.
        run: tries a batch and returns its validation metrics; higher is better, `None`
            if a setting failed.

    References:
        Akiba et al., Optuna, KDD 2019. Bergstra et al., Algorithms for Hyper-Parameter
        Optimization (TPE), NeurIPS 2011.
    """
    import optuna  # pyright: ignore[reportMissingImports]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A run that continues with the first seed would draw its first random settings.
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
        metrics = run([_rounded(trial.params) for trial in trials])
        for trial, metric in zip(trials, metrics, strict=True):
            failed = optuna.trial.TrialState.FAIL if metric is None else None
            study.tell(trial, metric, state=failed)
        done += len(trials)


def _distribution(draw: Draw) -> Any:
    from optuna import distributions  # pyright: ignore[reportMissingImports]

    if draw.kind == "choice":
        return distributions.CategoricalDistribution(draw.values)
    log = draw.kind == "log"
    if draw.integer:
        return distributions.IntDistribution(int(draw.low), int(draw.high), log=log)
    return distributions.FloatDistribution(draw.low, draw.high, log=log)


def _rounded(params: Values) -> Values:
    """To six digits, so that a value reads the same in names and tables."""
    return {
        field: float(f"{value:.6g}") if isinstance(value, float) else value
        for field, value in params.items()
    }
