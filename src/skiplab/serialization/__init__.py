"""Write a program to files that need no Skiplab to read, and hold each against the program."""

from skiplab.serialization.save import check_formats, save

__all__ = ["check_formats", "save"]
