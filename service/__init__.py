"""The service: a runtime that classifies pictures, and the commands and APIs that call it.

A package imports only packages that come after it here:
cli -> api -> runtime -> settings -> pipeline -> accuracy -> models -> images, backends ->
scheduling -> telemetry, load -> tiers -> errors.
"""
