"""How accurate the answers are: on labelled pictures, and by agreement on live traffic.

This package must not know requests. It gets logits from a callable that is passed to it.
"""
