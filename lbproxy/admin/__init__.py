"""What an operator looks at: liveness, metrics, status, logs."""
