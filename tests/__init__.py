"""The tests, in the order of the house: unit, integration, acceptance."""
