"""The processes that decode pictures, and what each of them may take.

A process holds no model and no PyTorch: `worker.py` is all that runs in it, with the modules that
read pictures. `process.py` is the service's side.
"""
