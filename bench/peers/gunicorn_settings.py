"""gunicorn as the Flask peer has it: a master, and one worker of threads, since there is one model."""

from typing import Any

workers, worker_class, threads = 1, "gthread", 8
# The defaults are 2 s and 1000: clients that pause would pay for a new connection each time.
keepalive, worker_connections = 75, 2048
graceful_timeout = 5
# The benchmark stops the whole group between two turns: a master must not kill a worker that was silent meanwhile.
timeout = 0
control_socket_disable = True  # of newer ones; nobody asks it anything


def post_worker_init(worker: Any) -> None:
    """Say that clients are answered: the model is loaded."""
    worker.log.info("listening on http://%s", worker.cfg.bind[0])
