"""One client's session: its segment, its socket's frames, and both together."""
