"""One data set per module, with one task for each of its variants."""
