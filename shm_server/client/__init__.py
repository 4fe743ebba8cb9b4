"""The side that calls: shm_server.Client for threads, shm_server.AsyncClient for an event loop.

    with Client() as client:
        y = client.model("iris")(x)

A session is one lane of one model: its requests and answers lie in memory that both processes map, see layout.md. What
it sends was checked against the model's signature before; what it reads was copied once and checked in the copy.
"""
