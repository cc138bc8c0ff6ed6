"""Recipes: each module has a function `recipe` that returns a complete configuration."""
