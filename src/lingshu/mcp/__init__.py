"""Tools, resources and prompts over the Model Context Protocol."""
