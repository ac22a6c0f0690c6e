"""From the syntax tree of a query to one SQL statement that runs inside a source.

Nothing here runs anything. The differences between databases are the `Dialect` of each engine, a class or a table of
`Templates`; everything else is SQLAlchemy Core. Every value of a query, names of properties and events included, is a
bound parameter; only names of tables and columns, quoted, and the SQL of the file itself are part of the text.
"""
