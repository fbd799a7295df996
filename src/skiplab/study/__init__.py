"""Controlled comparisons, one file a question: variants × sizes × seeds, one difference at a time."""

NAMES = ("depth",)
