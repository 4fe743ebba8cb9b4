"""What each counter counts, of both processes (README, "Counters")."""

# What the counters of batches by the size that they ran in begin with.
BATCHES = "batches_of_"
HELP = {
    "echoes": "Echo requests answered",
    "calls": "Requests that a model has answered",
    "prompts": "Prompts answered",
    "batches": "Batches taken from the rings",
    "expired": "Requests whose deadline had passed before they were taken",
    "refused": "Requests refused because the server was stopping",
    "model_errors": "Requests whose model raised",
    "bells_sent": "Bells written to sleeping clients",
    "bells_suppressed": "Completions that needed no bell, the client was awake",
    "bells_pending": "Bells dropped because the socket was full of them",
    "queue_ns": "Nanoseconds between submission and the server's taking it, summed over requests that say when",
    "model_ns": "Nanoseconds from taking a batch to its answers, summed over batches",
    "spin_hits": "Spins that found work",
    "spin_misses": "Spins that ended without work",
    "parks": "Sleeps on the doorbells",
    "wakes": "Sleeps that the control thread ended",
    "views": "Model batches read in place",
    "gathers": "Model batches copied together first",
    "worker_starts": "Starts of processes that have a model or the generator, the first and those after a crash",
    "worker_crashes": "Ends of such processes that nobody had asked for, also while they load again",
    "reloads": "Times that new workers have taken a model over from the ones before",
    "http_requests": "Requests over HTTP that were answered",
    "grpc_requests": "Calls over gRPC",
    "uds_packets": "Packets over the Unix-socket protocol that were answered",
    "gateway_starts": "Starts of processes that are gateways, the first and those after a crash",
    "gateway_crashes": "Ends of such processes that nobody had asked for",
    "protocol_faults": "Sessions closed because the client broke the protocol",
}
GAUGES = {
    "sessions": "Clients connected",
    "busy_ns": "Nanoseconds that models have had what they have in hand, summed over models; 0 where nothing is",
    "prompts_in_flight": "Prompts that text is generated for",
    "prompts_waiting": "Prompts in line for their turn",
}
