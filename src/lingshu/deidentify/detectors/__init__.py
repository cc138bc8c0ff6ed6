"""Detectors: models that add identifiers to those of the rules, one file each.

A module defines `detector(**options)`, which returns a function from a text to IdentifierSpans. It
is called once in each process. What a detector finds is united with the rules; it removes nothing.
"""
