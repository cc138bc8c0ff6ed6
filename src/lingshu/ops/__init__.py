"""Steps of curation, one per file, and the signatures and searches they share."""
