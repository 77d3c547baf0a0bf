"""The two programs that grade a third one: they run in sandboxes of their own, apart from this project.

`answers` runs the candidate and calls it, `checks` runs the tests, `values` is all that passes between them.
The modules import nothing but the standard library and each other.
"""
