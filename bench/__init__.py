"""What shared memory costs and saves, measured beside its alternatives. See bench/README.md.

python -m bench.run --quick
"""
