"""Intervals, the columns of tables, and the wording of numbers."""
