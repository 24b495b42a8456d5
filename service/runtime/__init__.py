"""One replica without HTTP: everything that is built once, started, asked and drained.

A door, a notebook or a test enters `Runtime` and calls `classify`. The room must not know a
protocol: no status, no header, no schema of an API.
"""
