"""One scorer per module: a pure function from a sample and a reply to a score."""
