"""Loads models by name, with example inputs."""
