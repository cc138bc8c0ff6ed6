"""Floor 2, a shelf: one scorer per module, a pure function from a sample and a reply to a score."""
