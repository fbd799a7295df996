"""Write a program to files that need no Skiplab to read, and hold each against the program."""

from skiplab.saved.save import save

__all__ = ["save"]
