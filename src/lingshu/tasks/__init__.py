"""Floor 3, a shelf: one benchmark per module."""
