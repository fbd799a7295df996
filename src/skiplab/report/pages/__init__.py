"""Pages, each made from tables and sentences."""
