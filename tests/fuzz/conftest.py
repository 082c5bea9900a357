"""Says at the end how many inputs each target was given."""

from __future__ import annotations

import pytest
from tests.fuzz.examples import INPUTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if INPUTS:
        terminalreporter.section("fuzzed inputs")
        for target, inputs in [*sorted(INPUTS.items()), ("together", INPUTS.total())]:
            terminalreporter.write_line(f"{target:<16} {inputs:>9,}")
