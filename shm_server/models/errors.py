"""What goes wrong with models."""


class ModelError(Exception):
    """A model that can not be served.  Its text is one line: what is wrong and what to do."""
