"""What `shm-server train` and the tiny Gemma model are made with."""
