"""Says at the end how many of the providers' real answers were decoded: a folder that is absent decodes none."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum what the tests have counted with `record_property("decoded", n)`, also across processes."""
    reports: list[pytest.TestReport] = terminalreporter.stats.get("passed", [])
    counts = [
        int(str(value)) for r in reports if r.when == "call" for name, value in r.user_properties if name == "decoded"
    ]
    terminalreporter.write_line(f"real recorded answers decoded: {sum(counts)}")
