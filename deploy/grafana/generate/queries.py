"""PromQL that the panels share. Every range is Grafana's: four scrapes at least."""

REPLICA = 'instance=~"$instance"'
MODEL = f'{REPLICA}, model=~"$model"'
TIER = f'{MODEL}, tier=~"$tier"'
OF_ANSWERS = f'{TIER}, result="answered"'
"""label matchers: which series the variables at the top of a dashboard choose"""


def rate(metric: str, where: str, by: str = "") -> str:
    """How much a counter grows in a second; `by` is a list of labels."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def share(part: str, whole: str) -> str:
    """A ratio; nothing where the whole is 0."""
    return f"{part} / ({whole} > 0)"


def mean(histogram: str, where: str, by: str = "") -> str:
    """What the observations of a histogram are on average."""
    return share(rate(f"{histogram}_sum", where, by), rate(f"{histogram}_count", where, by))


def quantile(number: float, histogram: str, where: str, by: str = "") -> str:
    """What so large a share of the observations of a histogram stays below; nothing without any."""
    bounds = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({number}, {rate(f'{histogram}_bucket', where, bounds)}) >= 0"


def buckets(histogram: str, where: str) -> str:
    """How many observations fell into each bucket; for a heat map."""
    return f"sum by (le) (increase({histogram}_bucket{{{where}}}[$__rate_interval]))"
