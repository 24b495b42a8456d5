"""The service: a runtime that classifies pictures, and the doors through which requests reach it.

Read the rooms from the door inwards. An arrow never runs back up:
cli -> api -> runtime -> settings -> pipeline -> accuracy -> models -> images, backends ->
scheduling -> telemetry, load -> tiers -> errors.
"""
