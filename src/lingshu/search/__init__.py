"""Near-duplicate and overlap search over texts and images."""
