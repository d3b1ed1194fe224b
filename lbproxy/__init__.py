"""lbproxy: the load balancer for Kubernetes apiservers, in pure Python."""

__version__ = "0.1.0"
