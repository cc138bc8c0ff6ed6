"""Pseudonyms, names, identifiers in text and burned-in text."""
