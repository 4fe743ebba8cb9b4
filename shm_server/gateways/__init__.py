"""The other ways in: HTTP, the Unix-socket protocol, and metrics."""
