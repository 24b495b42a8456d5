"""Scores, choices and bipartite matching that several methods share.

Its one job: from keys, attention and scores to index plans. It must not know which method asks,
in which block, or how many tokens the schedule removes elsewhere; and it moves no token.
"""
