"""Suites that every implementation of a protocol passes. Semantics that all must share are tested here, not in one."""
