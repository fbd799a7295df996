"""Analysis of a captured network: skip connections, merges, paths, and differences of two networks."""
