"""Image files become pixels, within limits.

It must not know a model: the input that a model needs is described by an `InputSpec`.
"""
