"""The report of a sweep: one page that needs nothing else, its figures as PNGs, and its numbers as plain data.

    record.py          what it is made of: the comparison, every trial's curve, the confusion of the best one
    reached.py         how long it took to given accuracies
    importance.py      how much each varied key decided
    cautions.py        what takes weight from the answers
    figures.py         the figures, a function each
    drawing.py         how they look, and how they become files
    page.py            the page, which report.html.j2 lays out
    written.py         writes all of it, beside the sweep's files and into its MLflow run
    after_sweep.py     has it written when a sweep ends

Only `written` and `record` read the store; nothing imports TensorFlow.
"""
