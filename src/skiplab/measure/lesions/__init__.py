"""Lesions: what changes, how the changed networks run, and how they are compared."""
