"""What happens per byte and per request: one reactor in each worker process."""
