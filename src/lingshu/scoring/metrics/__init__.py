"""Metrics over whole sets of replies, one per file."""
