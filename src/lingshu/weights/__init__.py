"""Floor 1: tensors by name, straight from safetensors files; no model code."""
