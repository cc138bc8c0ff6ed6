"""Floor 1: bounded reading of images."""
