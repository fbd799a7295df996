"""Files: written whole or not at all, weights, checksums, and results that a stopped command resumes."""
