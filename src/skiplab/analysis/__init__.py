"""What a captured network is made of: skip connections, merges, paths, and how two networks differ."""
