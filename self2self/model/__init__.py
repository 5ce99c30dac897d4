"""Define the network, its masks, and the graph contract that export and all engines share."""
