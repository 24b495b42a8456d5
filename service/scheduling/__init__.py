"""Who goes next, when, and with how much of the device.

It must not know torch, HTTP or a model: pixels and logits pass through it unseen, and a lane is
any hashable value that can be forecast.
"""
