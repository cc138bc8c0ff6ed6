"""Registry of engines: one backend that answers samples per module."""
