"""Segment's query language: audiences and computed traits as text, as a checked syntax tree, and as text again.

Nothing in here knows SQL: `audience_sync.compiler` turns the tree into a statement.
"""
