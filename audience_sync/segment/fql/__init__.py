"""Triggers: the documented FQL, read once into a syntax tree, and a function that matches events many times."""
