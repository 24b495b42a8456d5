"""Image files become pixels, within limits, in threads of their own.

It must not know a model: the input that a model needs is described by an `InputSpec`.
"""
