"""The manual: Markdown pages that travel with the program. `README.md` lists them in reading order."""
