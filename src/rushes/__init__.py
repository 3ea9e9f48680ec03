"""Durable, multi-provider AI video generation."""
