"""Floor 2, a shelf: one corpus or file format per module, each yielding samples or drops."""
