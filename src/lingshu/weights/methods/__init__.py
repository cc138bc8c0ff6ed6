"""The shelf of merge methods: one file each, with a function `method` whose parameters have names
and defaults.
"""
