"""Providers: one file a wire, on a base that knows how to ask, wait, check and price."""
