"""Readers, one file format per module, each yielding samples or drops."""
