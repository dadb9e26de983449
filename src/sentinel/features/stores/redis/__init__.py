"""State in Redis, one node or a Cluster: shared by writers, in one order of commits."""
