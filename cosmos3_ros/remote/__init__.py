"""Requests to model servers: one exchange over HTTP, retries, a circuit breaker, and counts of it all."""
