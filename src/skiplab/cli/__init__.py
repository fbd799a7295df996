"""The command line, a file a command; see `skiplab --help`."""

from skiplab.cli import diff, edit, find, lint, measure, prune, study, study_compare, train  # noqa: F401 (each adds its commands)
from skiplab.cli.app import app, main

__all__ = ["app", "main"]
