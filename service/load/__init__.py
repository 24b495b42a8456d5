"""Sends load to a running service and says what came back. Needs the optional package aiohttp.

It must not know how the service works: it speaks HTTP, and of the service's own modules it imports
`tiers` and `errors` only. Read `measure.py` first.
"""
