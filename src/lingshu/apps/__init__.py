"""Floor 6: what people run."""
