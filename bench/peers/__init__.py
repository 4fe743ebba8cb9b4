"""The baselines: a model served in the usual ways, each with the model in its own process. For the benchmark only."""
