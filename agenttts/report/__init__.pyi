# The public names and the modules that define them. Type checkers read this file, and so does
# `datastore.lazy`, which imports a name when it is first used.
from agenttts.report.data import ReportData, read_report

__all__ = [
    "ReportData",
    "read_report",
]
