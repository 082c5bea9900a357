"""What pruning saves: a head on scikit-learn's digits, its width, dropout and learning rate sampled.

    python benchmarks/sweep_pruning.py [SEEDS]

Promised: 40 trials reach within two validation images of the best without pruning, with at most 40 %
of its epochs, in the median over 5 seeds. The head (dense, ReLU, dropout, dense; Adam) is written in
NumPy and sees the digits' 64 pixels: what is measured is the pruner's work, and that needs neither
TensorFlow nor a backbone. Splits are 50/25/25, as everywhere in Graft.
"""

from __future__ import annotations

import statistics
import sys

import optuna
from optuna.trial import TrialState
from sweep_apps import App

from graft.sweep.storage import open_storage

TRIALS, EPOCHS = 40, 27
PRUNER = "{name: SuccessiveHalving, min_resource: 1, reduction_factor: 4}"

APP = """
    from dataclasses import dataclass
    import hydra
    from hydra.core.config_store import ConfigStore
    from graft import trial

    @dataclass
    class Config:
        head_width: int = 64
        dropout_rate: float = 0.0
        learning_rate: float = 1e-3
        epochs: int = 27
        seed: int = 0

    ConfigStore.instance().store(name="config", node=Config)

    @hydra.main(version_base="1.3", config_name="config")
    def main(config):
        import numpy as np
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        x, y = load_digits(return_X_y=True)
        x = x / 16 - 0.5
        x_train, x_rest, y_train, y_rest = train_test_split(x, y, train_size=0.5, stratify=y, random_state=0)
        x_val, _, y_val, _ = train_test_split(x_rest, y_rest, train_size=0.5, stratify=y_rest, random_state=0)
        random = np.random.default_rng(config.seed)
        width, keep = config.head_width, 1 - config.dropout_rate
        weights = [random.normal(0, (2 / 64) ** 0.5, (64, width)), np.zeros(width),
                   random.normal(0, (1 / width) ** 0.5, (width, 10)), np.zeros(10)]
        moments = [[np.zeros_like(w), np.zeros_like(w)] for w in weights]
        step = best = 0
        for epoch in range(config.epochs):
            order = random.permutation(len(x_train))
            for batch in np.array_split(order, len(order) // 32):
                step += 1
                hidden = np.maximum(x_train[batch] @ weights[0] + weights[1], 0)
                mask = (random.random(hidden.shape) < keep) / keep
                dropped = hidden * mask
                logits = dropped @ weights[2] + weights[3]
                logits -= logits.max(axis=1, keepdims=True)
                error = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                error[np.arange(len(batch)), y_train[batch]] -= 1
                error /= len(batch)
                back = (error @ weights[2].T) * mask * (hidden > 0)
                gradients = [x_train[batch].T @ back, back.sum(0), dropped.T @ error, error.sum(0)]
                for weight, (m, v), gradient in zip(weights, moments, gradients):
                    m += 0.1 * (gradient - m)
                    v += 0.001 * (gradient**2 - v)
                    corrected = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)) ** 0.5 + 1e-7)
                    weight -= config.learning_rate * corrected
            guess = (np.maximum(x_val @ weights[0] + weights[1], 0) @ weights[2] + weights[3]).argmax(axis=1)
            best = max(best, int((guess == y_val).sum()))
            trial.report(epoch + 1, best)
            if trial.should_stop():
                break
        return best

    if __name__ == "__main__":
        main()
"""


def sweep(app: App, seed: int, *pruning: str) -> tuple[int, int]:
    """Right validation images of the best trial, and epochs trained by all trials together."""
    journal = app.folder / f"{seed}-{len(pruning)}.journal"
    app.graft(
        "head_width=tag(log,int(interval(8,256)))", "dropout_rate=interval(0,0.8)",
        "learning_rate=tag(log,interval(1e-5,1e-1))", f"epochs={EPOCHS}", f"hydra.sweeper.n_trials={TRIALS}",
        "hydra.sweeper.direction=maximize", f"hydra.sweeper.seed={seed}", f"hydra.sweeper.storage={journal}", *pruning,
    )  # fmt: skip
    storage = open_storage(str(journal))
    study = optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.trials)
    return int(study.best_value), sum(len(trial.intermediate_values) for trial in study.trials)


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    app = App(APP)
    behind, shares = [], []
    for seed in range(seeds):
        whole, all_epochs = sweep(app, seed)
        pruned, epochs = sweep(app, seed, f"hydra.sweeper.pruner={PRUNER}")
        behind.append(whole - pruned)
        shares.append(epochs / all_epochs)
        print(
            f"seed {seed}: best without pruning {whole} of 449 images in {all_epochs} epochs, with {pruned} in "
            f"{epochs} ({epochs / all_epochs:.0%})",
            flush=True,
        )
    print(
        f"median over {seeds} seeds: {statistics.median(behind)} images behind with "
        f"{statistics.median(shares):.0%} of the epochs"
    )


if __name__ == "__main__":
    main()
