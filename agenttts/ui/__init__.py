"""`agenttts ui`: the runs of a database in the browser, also while a search is running."""
