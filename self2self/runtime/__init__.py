"""Running an exported model; works without torch."""
