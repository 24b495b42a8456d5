"""Writes the dashboards: `python -m deploy.grafana.generate`."""
