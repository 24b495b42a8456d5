"""This service beside other servers with the same model: `python -m benchmarks.serving`."""
