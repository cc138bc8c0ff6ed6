"""Merge methods, one file each: `method` takes parameters with names and defaults."""
