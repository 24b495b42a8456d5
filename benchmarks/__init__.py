"""One script per claim; each prints JSON with machine, versions and commit."""
