"""Write a program to files that need no Skiplab to read, and compare each file with the program."""

from skiplab.serialization.save import check_formats, save

__all__ = ["check_formats", "save"]
