"""Segment's language: mappings, FQL triggers, integrations and timestamps, whatever the destination is."""
