"""The command line: one file for each command of `rapid`, and `commands.py`, which joins them.

It knows the settings and prints to a terminal. It must not know HTTP.

`rapid --help` must not wait for PyTorch. A command therefore imports inside its function what takes
long: this is the only room where a function may import. The files whose names begin with that of a
command (`probe_measure.py`) do its work, import at their head, and print nothing.
"""
