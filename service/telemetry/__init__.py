"""What the outside sees of the service: metrics, log lines, statistics of the protocols.

`record.py` is the only writer. The room must not know torch, HTTP or a model: it is told plain
values.
"""
