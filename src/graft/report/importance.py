"""How much each varied key decided, as Optuna's fANOVA sees it, from a study that is made of the record.

Source: Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
"""

from __future__ import annotations

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from graft.comparison import TrialRow
from graft.comparison.varied import numbers
from graft.report.record import SweepRecord

LEAST_TRIALS = 8  # fewer say nothing about two keys at once
MOST_TRIALS = 120  # of more, so many, evenly spread: the time grows with their square
MOST_TEXTS = 12  # different values of a key that is no number; more are as good as a name for each trial
SPANS_DECADES = 20  # highest by lowest value, from which a key is seen on a logarithmic scale


def importances(record: SweepRecord) -> dict[str, float] | str:
    """The part of each varied key in how the validation accuracy differs, the largest first; they add up to 1.

    `seed` is one of them where it varies, in up to twelve values: a key below it decides less than chance. Where
    nothing can be said, why.
    """
    trials = [trial for trial in record.complete if all(key in trial.params for key in record.varied)]
    step = -(-len(trials) // MOST_TRIALS)
    trials = trials[::step] if step else trials
    keys = [key for key in record.varied if len({trial.params[key] for trial in trials}) > 1]
    keys = [key for key in keys if not isinstance(_column(trials, key)[0][0], str) or _texts(trials, key) <= MOST_TEXTS]
    if len(keys) < 2:
        return f"Importance needs two varied keys; this sweep varies {keys[0] if keys else 'no key'}."
    if len(trials) < LEAST_TRIALS:
        return f"Importance needs {LEAST_TRIALS} complete trials; this sweep has {len(trials)}."
    if len({trial.best_val_accuracy for trial in trials}) == 1:
        return "All trials have the same validation accuracy, so no key decided anything."
    # Late, because it imports scikit-learn, and most sweeps vary too little for it.
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces studies in memory, too
    try:
        study = optuna.create_study(direction="maximize")
        columns = {key: _column(trials, key) for key in keys}
        for row, trial in enumerate(trials):
            params = {key: values[row] for key, (values, _) in columns.items()}
            distributions = {key: distribution for key, (_, distribution) in columns.items()}
            value = trial.best_val_accuracy
            study.add_trial(create_trial(value=value, params=params, distributions=distributions))
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=32, seed=0))
    finally:
        optuna.logging.set_verbosity(level)
    return {key: float(value) for key, value in found.items()}


def _texts(trials: list[TrialRow], key: str) -> int:
    return len({trial.params[key] for trial in trials})


def logarithmic(values: list[float]) -> bool:
    """Whether numbers span so much that their logarithm shows more."""
    return min(values) > 0 and max(values) / min(values) >= SPANS_DECADES


def _column(trials: list[TrialRow], key: str) -> tuple[list[float] | list[str], BaseDistribution]:
    """The values of a key and the distribution that they may have come from."""
    found = numbers(trials, key) if key != "seed" else None  # a seed is a name: 2 is not between 1 and 3
    if found is None:
        texts = [trial.params[key] for trial in trials]
        return texts, CategoricalDistribution(sorted(set(texts)))
    return found, FloatDistribution(min(found), max(found), log=logarithmic(found))
