"""The report of a sweep: one page that needs nothing else, its figures as PNGs, and its numbers as plain data."""
