"""Directives: the fields of a mapping, checked and compiled once, and resolved for every event."""
