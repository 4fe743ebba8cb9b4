"""HTTP, as an ASGI application on uvicorn: a client of the lanes like any other.

server.py hosts it, protocol.py bounds what a connection may cost, app.py says what is answered where, and plain.py
answers, as openai.py does in OpenAI's shape; body.py reads requests and answers.py writes what is said to them.
"""
