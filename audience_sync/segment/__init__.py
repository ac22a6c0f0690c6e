"""Segment's language: mappings, FQL triggers, integrations and timestamps, with no reference to a destination."""
