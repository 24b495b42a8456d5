"""How right the answers are: tiers on labelled pictures, and agreement on live traffic.

It must not know requests. It asks for logits through a callable that it is given.
"""
