"""Runs exported models; works without torch."""
