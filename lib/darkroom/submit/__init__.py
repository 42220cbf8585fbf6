"""Sending jobs to a cluster, and clusters of several nodes on this machine."""
