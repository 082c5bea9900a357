"""What takes weight from the answers: few test images, accuracies near guessing, too few epochs."""

from __future__ import annotations

from graft.report.record import SweepRecord

FEW_TEST_IMAGES = 100


def cautions(record: SweepRecord) -> list[str]:
    """Why the sweep says little; empty where it does not."""
    found = []
    images = record.comparison.test_images
    if images and images < FEW_TEST_IMAGES:
        few = "one image" if images == 1 else f"{images} images, and one of them is {1 / images:.4f} of test accuracy"
        found.append(f"Take this for a hint: the test split has only {few}.")
    if near := _near_guessing(record):
        found.append(near)
    return found


def _near_guessing(record: SweepRecord) -> str:
    classes = len(record.class_names)
    if classes < 2:  # they were not recorded
        return ""
    # Twice guessing; of two classes that would be everything right, and so it is half of the way there.
    least = min(2 / classes, (1 + 1 / classes) / 2)
    low = [f"{side.kind} {side.test_accuracy:.4f}" for side in record.comparison.sides if side.test_accuracy < least]
    if not low:
        return ""
    return (
        f"This says little: guessing among {classes} classes gives {1 / classes:.4f}, and the median test accuracy is "
        f"not far from it ({', '.join(low)})."
    )


def more_epochs(record: SweepRecord) -> str:
    """Which kinds of training were still getting better when they ended, if one was."""
    told = []
    for kind in record.kinds:
        curves = [record.curves[trial.number] for trial in record.of_kind(kind) if trial.number in record.curves]
        last = sum(curve.best_is_last for curve in curves)
        if 2 * last > len(curves):
            of = "the one" if len(curves) == 1 else f"{last} of {len(curves)}"
            told.append(f"in {of} {kind} trial{'' if len(curves) == 1 else 's'}")
    if not told:
        return ""
    which = " and ".join(told)
    return f"The last epoch was the best one {which}: more epochs may help {'it' if len(told) == 1 else 'both'}."
