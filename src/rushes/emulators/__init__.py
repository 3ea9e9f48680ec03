"""Providers' twins: the same wire as the real ones, for tests, demos and the key-free lab."""
