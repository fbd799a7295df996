"""Charts, made from tables."""
