"""Proof, read off the engine and its ranks, that a config's mode is what really ran."""
