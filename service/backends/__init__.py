"""How a batch is computed on this machine: device, library, precision, threads.

This package must not know requests, lanes or metrics. `contract.py` says what a backend offers.
"""
