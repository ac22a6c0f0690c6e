"""A local Schematic to develop and test against: it takes events, reads them back, and fails on demand."""
