"""Merging of models and adapters, straight from safetensors files; no model code."""
