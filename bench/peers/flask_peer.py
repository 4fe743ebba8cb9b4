"""HTTP + JSON as a model is usually served: a Flask application. gunicorn runs it, see gunicorn_settings.py.

gunicorn --config bench/peers/gunicorn_settings.py --bind 127.0.0.1:PORT "bench.peers.flask_peer:application('jax')"

POST /echo      {"prompt": TEXT}         -> {"echo_prompt": TEXT}
POST /classify  3,072 bytes of pixels    -> {"label": NAME, "score": P, "scores": {NAME: P, ...}}
"""

from __future__ import annotations

from typing import Any

from flask import Flask, request

from .model import Model


def application(engine: str) -> Flask:
    """Called in gunicorn's worker, which has the model."""
    model = Model(engine)
    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # classes stay in the model's order

    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"status": "ok", "classes": list(model.names)}

    @app.post("/echo")
    def echo() -> dict[str, Any]:
        return {"echo_prompt": request.get_json()["prompt"]}

    @app.post("/classify")
    def classify() -> dict[str, Any]:
        scores = model.scores(request.get_data())
        best = int(scores.argmax())
        named = dict(zip(model.names, scores.tolist(), strict=True))
        return {"label": model.names[best], "score": float(scores[best]), "scores": named}

    @app.errorhandler(ValueError)
    def refused(error: ValueError) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, 400

    return app
