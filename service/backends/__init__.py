"""How a batch is computed on this machine: device, library, precision, threads.

It must not know requests, lanes or metrics. `contract.py` says what a backend offers.
"""
