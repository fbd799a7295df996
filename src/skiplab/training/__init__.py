"""Training: recipe, loop, checkpoints, objectives, several seeds."""
