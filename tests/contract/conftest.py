"""Says at the end how much was done: a folder of real answers that is absent decodes none."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum what the tests have counted with `record_property("decoded", n)`, also across processes."""
    reports: list[pytest.TestReport] = terminalreporter.stats.get("passed", [])
    counted = [(name, int(str(value))) for r in reports if r.when == "call" for name, value in r.user_properties]
    for said, wanted in (("real recorded answers decoded", "decoded"), ("operations on a store", "operations")):
        terminalreporter.write_line(f"{said}: {sum(value for name, value in counted if name == wanted)}")
