"""Model families, one file per model_type of the hub configuration."""
