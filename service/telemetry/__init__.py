"""What the outside sees of the service: metrics, log lines, statistics of the protocols.

`record.py` is the only writer. This package must not know torch, HTTP or a model: other rooms pass
it plain values.
"""
