"""The Open Inference Protocol v2 under /v2, as the clients of KServe and Triton speak it.

This package must not know the schemas of /v1.
"""
