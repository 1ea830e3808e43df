"""Unlearning in classifiers, beside other methods."""
