"""Which tiers run, what they save, and how right they are."""

from deploy.grafana.generate.parts import Board, Panel
from deploy.grafana.generate.queries import MODEL, REPLICA, TIER, rate, share

BY = "model, tier"
LEGEND = "{{model}} {{tier}}"
TOKENS = "rapid_tokens_total"
SHADOWED = rate("rapid_shadow_samples_total", TIER, BY)


def probed(metric: str, more: str = "") -> str:
    """What the worst replica found."""
    return f"min by ({BY}) ({metric}{{{TIER}{more}}})"


USE = (
    Panel(
        kind="stack",
        title="Images by tier",
        unit="ops",
        queries={LEGEND: rate("rapid_images_total", TIER, BY)},
        description="Images that were classified. `custom` named r itself.",
        width=6,
    ),
    Panel(
        kind="stack",
        title="Why this tier",
        unit="reqps",
        queries={"{{reason}}": rate("rapid_choices_total", TIER, "reason")},
        description="latency_budget_missed: no tier was expected to be in time, so the fastest "
        "ran. brownout: lowered under pressure.",
        width=6,
    ),
    Panel(
        kind="lines",
        title="Tokens removed",
        unit="percentunit",
        queries={
            LEGEND: share(rate(TOKENS, f'{TIER}, kind="removed"', BY), rate(TOKENS, TIER, BY))
        },
        description="Share of the tokens that did not come out of the last block.",
        width=6,
    ),
    Panel(
        kind="lines",
        title="Multiply-adds of an image",
        unit="short",
        queries={
            LEGEND: share(rate("rapid_macs_total", TIER, BY), rate("rapid_images_total", TIER, BY))
        },
        description="What an image costs in each tier.",
        width=6,
    ),
)

LABELLED = (
    Panel(
        kind="lines",
        title="Top-1 against the baseline",
        unit="percentunit",
        queries={
            LEGEND: f"min by ({BY}) (rapid_probe_accuracy_ratio{{{TIER}}}"
            ' - rapid_probe_baseline_accuracy_ratio{k="1"})'
        },
        description="Share of the labelled pictures that are right, less what it was when the "
        "model was known to be good. Below the line the model is damaged, or not the right one. "
        "Empty for models without a baseline.json.",
        alert="RapidProbeAccuracyDrop",
    ),
    Panel(
        kind="lines",
        title="Top-1 accuracy",
        unit="percentunit",
        queries={LEGEND: probed("rapid_probe_accuracy_ratio", ', k="1"')},
        description="Share of the labelled pictures whose best answer was right.",
    ),
    Panel(
        kind="lines",
        title="Top-5 accuracy",
        unit="percentunit",
        queries={LEGEND: probed("rapid_probe_accuracy_ratio", ', k="5"')},
        description="Share of the labelled pictures with the right label among the best five.",
    ),
    Panel(
        kind="lines",
        title="Agreement with the unreduced model",
        unit="percentunit",
        queries={LEGEND: probed("rapid_probe_agreement_ratio")},
        description="Share of the labelled pictures whose best answer is the unreduced model's. "
        "It falls while `exact` stays: the tiers no longer fit the model.",
    ),
    Panel(
        kind="lines",
        title="Since the last probe",
        unit="s",
        queries={
            "{{instance}} {{model}}": f"model:rapid_probe_age:seconds{{{MODEL}}}",
            "too long": f"3 * max(rapid_probe_interval_seconds{{{REPLICA}}} > 0)",
        },
        description="Probes run in spare time of the device. On a busy one they take long: see "
        "RAPID_SPARE_SHARE and RAPID_PROBE_MAX_IMAGES.",
        alert="RapidProbeStale",
    ),
    Panel(
        kind="stack",
        title="Pictures probed",
        unit="ops",
        queries={LEGEND: rate("rapid_probe_samples_total", TIER, BY)},
        description="While a probe goes on, how many labelled pictures it classifies in a second.",
    ),
)

LIVE = (
    Panel(
        kind="lines",
        title="Live answers that agree with the unreduced model",
        unit="percentunit",
        queries={LEGEND: share(rate("rapid_shadow_agreement_total", TIER, BY), SHADOWED)},
        description="Of the answers that were compared, the share with the same best label. Empty "
        "unless RAPID_SHADOW_FRACTION is above 0. The alert compares six hours with seven days.",
        alert="RapidShadowAgreementDrop",
        width=12,
    ),
    Panel(
        kind="stack",
        title="Live answers compared",
        unit="ops",
        queries={
            LEGEND: SHADOWED,
            "not compared": rate("rapid_shadow_dropped_total", REPLICA),
        },
        description="Not compared: the device had no spare time. Many of them: the agreement is "
        "that of quiet hours.",
        width=12,
    ),
)

BOARD = Board(
    uid="rapid-accuracy",
    title="rapid-vit: tiers and accuracy",
    description=__doc__,
    rows={"Use": USE, "On labelled pictures": LABELLED, "On live traffic": LIVE},
)
