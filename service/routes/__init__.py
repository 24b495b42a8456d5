"""HTTP: paths, bodies, statuses. Nothing below this folder knows HTTP."""
