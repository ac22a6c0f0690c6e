"""Check everything that a sync needs, and report all problems at once.

Checks change nothing and send no events. Each module checks one area and yields `Finding`s.
"""
