"""The quickstart: train, evaluate and explain a tiny model on rendered images."""
