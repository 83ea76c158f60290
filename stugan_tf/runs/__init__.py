"""Runs: trainings with a folder of their own, from the first step to the last checkpoint."""
