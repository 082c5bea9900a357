"""The comparison in words: which is better, by how much, how sure that is, and at what cost."""

from __future__ import annotations

from dataclasses import dataclass

from graft.comparison.further import further_sweep
from graft.comparison.interval import METHOD, SAME, Interval
from graft.comparison.record import Comparison, Side

BESIDE = "This makes a new sweep, which stands beside this one:"
FEW = 4  # seeds, below which the factor t is 4.3 and more
NARROW = 4  # test images: an interval below it is finer than the test split


@dataclass(frozen=True)
class Verdict:
    """Answers for somebody who has to choose, a sentence or two each.

    Attributes:
        better: ``fine-tuned``, ``frozen`` or ``none``; what the record supports, for programs.
        sure: Whether the interval leaves 0 out.
        which: Which is better.
        by_how_much: In test accuracy.
        how_sure: The interval and its method, or why there is none and what would give one.
        further: The command that gives a surer answer; empty where there is no need.
        cost: Epoch against epoch, with the backbone run on every image, and what else was paid.
    """

    better: str
    sure: bool
    which: str
    by_how_much: str
    how_sure: str
    further: str
    cost: str


def verdict(comparison: Comparison) -> Verdict | None:
    """The verdict on a sweep; None where it has no complete trials of both kinds."""
    if len(comparison.sides) < 2:
        return None
    found = comparison.pairing.interval
    return _unpaired(comparison) if found is None else _paired(comparison, found)


def _paired(comparison: Comparison, found: Interval) -> Verdict:
    better = _better(found.mean)
    if found.sign:
        which = f"{_subject(better)} is better, by {abs(found.mean):.4f} test accuracy."
    elif found.low is not None:
        came_out = f": {_subject(better).lower()} came out better, but by no more than the seeds differ"
        which = f"No clear difference{'' if better == 'none' else came_out}."
        better = "none"
    elif better == "none":
        which = "Neither is better: the test accuracy is the same."
    else:
        seeds = "the one seed" if found.seeds == 1 else f"{_all_seeds(found)}, by the same"
        which = f"{_subject(better)} came out better in {seeds}."
    pairing = comparison.pairing
    pairs = len(pairing.pairs)
    basis = "one pair of trials" if pairs == 1 else f"{pairs} pairs of trials"
    basis += f" ({_counted(found.seeds, 'seed')}{f' × {pairing.settings} settings' if pairing.settings > 1 else ''})"
    by_how_much = (
        f"{_difference(found.mean)}, {'from' if pairs == 1 else 'the mean over'} {basis} that are equal in everything "
        "but the backbone's training" + (" and what follows from it" if _telling_aside(comparison) else "") + "."
    )
    costs = cost(comparison)
    if better == "none" and (comparison.slow_down or 0) > 1:
        costs += " As nothing says that it is better, a frozen backbone is the cheaper choice."
    how_sure, more = _how_sure(comparison, found)
    further = further_sweep(comparison) if more else ""
    return Verdict(better, bool(found.sign), which, by_how_much, how_sure, further, costs)


def _unpaired(comparison: Comparison) -> Verdict:
    frozen, finetuned = comparison.sides
    difference = finetuned.test_accuracy - frozen.test_accuracy
    better = _better(difference)
    which = f"{_subject(better)} came out better" if better != "none" else "Neither came out better"
    differing = _listed(comparison.pairing.differing)
    return Verdict(
        better,
        False,
        f"{which}, but the trials cannot be paired: no frozen and fine-tuned trial are equal in everything else.",
        f"{_difference(difference)}, median against median: {finetuned.test_accuracy:.4f} of "
        f"{_counted(finetuned.trials, 'fine-tuned trial')}, {frozen.test_accuracy:.4f} of "
        f"{_counted(frozen.trials, 'frozen trial')}.{_best_of_each(comparison)} "
        f"They also differ in {differing}, which may be the reason.",
        f"Unknown: without pairs there is no interval. For one, give both kinds the same values of {differing}, and "
        f"several seeds. {BESIDE}",
        further_sweep(comparison),
        cost(comparison),
    )


def _best_of_each(comparison: Comparison) -> str:
    """The trials with the best validation accuracy: what a search of each kind found."""
    if all(side.trials == 1 for side in comparison.sides):
        return ""
    told = []
    for kind in ("fine-tuned", "frozen"):
        trials = [trial for trial in comparison.trials if trial.complete and trial.kind == kind]
        best = max(trials, key=lambda trial: trial.best_val_accuracy or 0.0)
        told.append(f"{best.test_accuracy:.4f} {kind}")
    return f" The best of each by validation: {', '.join(told)}."


def _how_sure(comparison: Comparison, found: Interval) -> tuple[str, bool]:
    """The answer, and whether it ends by asking for more seeds."""
    resolution = _resolution(comparison)
    if found.low is not None and found.high is not None:
        text = f"95 % interval {found.low:+.4f} to {found.high:+.4f} ({METHOD}, {found.seeds} seeds)"
        text += (
            ": it leaves 0 out, so other seeds would hardly turn it round."
            if found.sign
            else ": it holds 0, so either may be the better one."
        )
        if found.high - found.low < NARROW * _one_image(comparison):
            resolution += " Other images may move the difference further than this interval."
        more = f"{found.seeds} seeds are few; more make it surer. {BESIDE}" if found.seeds < FEW else ""
    elif found.why_none == "no spread":
        text = f"{_all_seeds(found).capitalize()} gave the same difference, and without a spread there is no interval."
        more = ""
    else:
        text, more = "Unknown: one seed gives no interval.", f"Several seeds give an interval. {BESIDE}"
    return " ".join(part for part in (text, resolution, more) if part), bool(more)


def _resolution(comparison: Comparison) -> str:
    images = comparison.test_images
    return f"One of the {images:,} test images is {_one_image(comparison):.4f}." if images else ""


def _one_image(comparison: Comparison) -> float:
    """What one test image is of the accuracy; 0 if that is unknown."""
    return 1 / comparison.test_images if comparison.test_images else 0.0


def cost(comparison: Comparison) -> str:
    """What fine-tuning costs more, for a comparison with both sides.

    Epochs are set side by side as with the backbone run on every image.
    """
    frozen, finetuned = comparison.sides
    slow_down = comparison.slow_down or 1.0
    text = (
        f"An epoch of fine-tuning takes {_times(slow_down)} as long: {_seconds(finetuned)} against {_seconds(frozen)} "
        "seconds, with the backbone run on every image."
    )
    if frozen.cached_features:
        text += (
            " Frozen trials need not run it so often: on stored features, made once, an epoch took "
            f"{frozen.epoch_seconds:.2g} seconds."
        )
    return text


def _better(difference: float) -> str:
    return "none" if abs(difference) < SAME else "fine-tuned" if difference > 0 else "frozen"


def _subject(better: str) -> str:
    return "Fine-tuning" if better == "fine-tuned" else "The frozen backbone"


def _difference(difference: float) -> str:
    if abs(difference) < SAME:
        return "The same test accuracy"
    more = "more" if difference > 0 else "less"
    of = 100 if abs(difference) >= 0.1 else 1000
    images = round(abs(difference) * of)
    in_words = f"about {images} of {of:,} images" if images else "less than one of 1,000 images"
    return f"Fine-tuning: {abs(difference):.4f} {more} test accuracy ({in_words})"


def _telling_aside(comparison: Comparison) -> bool:
    return any(frozen != finetuned for frozen, finetuned in comparison.pairing.aside.values())


def _seconds(side: Side) -> str:
    return f"{side.epoch_seconds_live:.3g}"


def _times(ratio: float) -> str:
    if round(ratio, 1) == 1:
        return "about"
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def _all_seeds(found: Interval) -> str:
    return "both seeds" if found.seeds == 2 else f"all {found.seeds} seeds"


def _counted(number: int, what: str) -> str:
    return f"one {what}" if number == 1 else f"{number} {what}s"


def _listed(keys: tuple[str, ...]) -> str:
    shown = ", ".join(keys[:4])
    more = len(keys) - 4
    return f"{shown} and {_counted(more, 'more key')}" if more > 0 else shown or "something"
