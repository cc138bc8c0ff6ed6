"""From files and studies to a model input, and from a reply to an answer with provenance."""
