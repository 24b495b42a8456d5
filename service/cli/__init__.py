"""The command line: one file for each command of `rapid`.

It knows the settings and prints to a terminal. It must not know HTTP, and it imports torch only
in a command that computes.
"""
