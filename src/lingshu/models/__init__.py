"""Floor 2: what differs between model families, and how a checkpoint is loaded, built and exported."""
