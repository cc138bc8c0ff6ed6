"""Data types, artifacts, configuration, errors and clients, which every other package builds on."""
