"""The command line, a file a command; see `skiplab --help`."""

from skiplab.cli import compare, edit, find, lint, measure, prune, study, train, versus  # noqa: F401 (each adds its commands)
from skiplab.cli.app import app, main

__all__ = ["app", "main"]
