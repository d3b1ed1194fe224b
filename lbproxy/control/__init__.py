"""The control plane: one trio process that owns configuration, sockets, health checks and the workers."""
