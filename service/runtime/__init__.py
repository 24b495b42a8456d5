"""One replica without HTTP: it is built, started, used and drained here.

An API, a notebook or a test enters `Runtime` and calls `classify`. This package must not know a
protocol: no status, no header, no schema of an API.
"""
