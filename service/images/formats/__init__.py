"""The readers of file formats: what matters of a file, within limits, before a decoder gets it.

A reader walks a file once and takes the few facts that its decoder does not tell.
"""
