"""Charts, each made from a table alone."""
