"""Erasing from the embedded model: each concept, many at once, beside other methods, under attack."""
