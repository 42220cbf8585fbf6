"""The Ray cluster that jobs run on: joining or starting one, what its nodes have, the processes below it."""

from darkroom.ray_cluster.connection import (
    ClusterError,
    beside,
    connect,
    errors_of_ray,
    free,
    node_resources,
    refuse_lost_token,
)

__all__ = ["ClusterError", "beside", "connect", "errors_of_ray", "free", "node_resources", "refuse_lost_token"]
