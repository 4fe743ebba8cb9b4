"""gRPC, on grpcio: a client of the lanes like any other.

server.py hosts it, front.py lets callers in, answers.py says how a call ends, inference.py is the Open Inference
Protocol and health.py gRPC's own; messages.py makes classes of the .proto files, wire.py knows what is too much for
them.
"""
