"""Model families, and how a checkpoint is loaded, built, run and exported."""
