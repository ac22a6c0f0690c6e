"""From an audience or computed trait of the settings to its rows, in its source."""
