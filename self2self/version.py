"""The version of self2self, for everything that needs it; it imports nothing."""

VERSION = "0.1.0"
