"""Curation: sources to a DATASET, shard by shard, every drop with its reason."""
