"""Likelihoods, barriers and merge paths."""
