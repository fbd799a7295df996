"""One page a file, made from tables and sentences."""
