"""The functional core: pure functions without a clock, randomness, I/O or logging."""
