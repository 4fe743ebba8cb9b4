"""The process of a model: a control thread with its clients, a data thread at their rings."""
