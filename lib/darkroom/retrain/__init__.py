"""Retraining on a schedule: a pipeline file, and ticks that snapshot, train, evaluate, gate, promote and generate."""
