"""The Ray cluster that jobs run on: joining one, starting one on this machine, sending jobs to one."""

from darkroom.cluster.connection import ClusterError, beside, connect, free, node_resources

__all__ = ["ClusterError", "beside", "connect", "free", "node_resources"]
