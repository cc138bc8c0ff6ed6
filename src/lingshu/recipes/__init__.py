"""Floor 5: values only; each module has a function `recipe` that returns a complete configuration."""
