"""Evaluate audiences and computed traits in their sources."""
