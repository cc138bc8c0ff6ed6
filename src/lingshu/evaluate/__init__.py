"""Floor 4: the evaluation loop: generate, score, report."""
