# The public names and the modules that define them. Type checkers read this file, and so does
# `datastore.lazy`, which imports a name when it is first used.
from agenttts.search.entry import async_search, search
from agenttts.search.events import OnEvent, SearchEvent

__all__ = [
    "OnEvent",
    "SearchEvent",
    "async_search",
    "search",
]
