"""The native REST API under /v1: its bodies, its schemas and its answers.

It must not know the Open Inference Protocol.
"""
