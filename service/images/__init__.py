"""Image files become pixels, within limits, in threads of their own.

It must not know a model: what a model wants to see comes in as an `InputSpec`.
"""
