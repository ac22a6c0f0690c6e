"""A second, independent account of the query language: plain Python, written from its documentation alone.

Nothing in here imports the product. `language` holds queries as data and writes them as text, `worlds` holds profiles
and events, `evaluating` says what a query means for them, `drawing` makes up worlds and queries, and `databases` puts a
world into real tables.
"""
