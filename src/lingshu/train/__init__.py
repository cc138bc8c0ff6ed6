"""The training loop, its data, objectives and states."""
