"""Sends load to a running service and reports the results. Needs the optional package aiohttp.

This package must not know how the service works. It speaks HTTP, and imports only `tiers` and
`errors` of the service. Read `measure.py` first.
"""
