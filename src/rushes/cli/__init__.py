"""The command line: `rushes VERB`."""

from rushes.cli.entry import main

__all__ = ["main"]
