"""Benchmarks: every result is a ratio of two things measured alternately in one run. `python -m bench` runs them."""
