"""Destinations: rendering and HTTP, without the membership database and the configuration."""
