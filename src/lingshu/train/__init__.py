"""Floor 4: the training loop."""
