"""Benchmarks: run each as `python -m eval.<folder>.<program>` from the root of the checkout."""
