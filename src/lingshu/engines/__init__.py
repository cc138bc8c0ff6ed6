"""Floor 3, a shelf: one backend that answers samples per module."""
