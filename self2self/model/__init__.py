"""The network, its masks, and what export and every engine agree on."""
