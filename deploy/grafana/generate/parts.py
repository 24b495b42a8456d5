"""What a dashboard is made of, and how it becomes what Grafana reads.

Grafana's first dashboard schema, which its SDK calls deprecated: it is the one that every Grafana
in use reads from a file.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog import builder as cogbuilder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

RUNBOOK = "docs/runbook.md"
TAG = "rapid-vit"
SOURCE = options.DataSourceRef(type_val="prometheus", uid="${datasource}")
ALL = models.VariableOption(text="All", value="$__all")
QUIET_LINES, HEIGHT, NUMBER_HEIGHT = 8, 8, 4

ALERTS_ABOVE = {
    "RapidErrorRatio": 0.0144,
    "RapidLatencyP99": 1,
    "RapidShedding": 0.05,
    "RapidSaturated": 0.8,
    "RapidDeviceLoopStuck": 15,
}
"""as in deploy/prometheus/alerts.yml"""
ALERTS_BELOW = {"RapidNoReplicaReady": 1, "RapidProbeAccuracyDrop": -0.05}

# Any: what JSON holds.
Document = dict[str, Any]
Kind = Literal["lines", "stack", "number", "bars", "heat", "table"]
Builder = timeseries.Panel | stat.Panel | bargauge.Panel | heatmap.Panel | table.Panel


class Panel(NamedTuple):
    """One question that somebody on call has, and its answer."""

    kind: Kind
    title: str
    unit: str
    """one of Grafana's: https://grafana.com/docs/grafana/latest/panels-visualizations"""
    queries: Mapping[str, str]
    """legend -> expression"""
    description: str
    alert: str = ""
    """of which there is a runbook entry, and perhaps a threshold"""
    width: int = 8
    """of 24"""


class Board(NamedTuple):
    """One dashboard."""

    uid: str
    title: str
    description: str
    rows: Mapping[str, Sequence[Panel]]
    """title -> panels"""


def build(board: Board, runbook: str) -> Document:
    """The dashboard as Grafana reads it.

    Args:
        board: what is on it.
        runbook: where the links of the panels lead.
    """
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .variables(_variables(runbook))
        .links([_other_boards()])
    )
    number = 0
    for title, panels in board.rows.items():
        number += 1
        builder.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            builder.with_panel(_panel(panel).id(number))
    document: Document = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    for link in document["links"]:
        del link["placement"]  # the SDK knows only the one that hides them in a menu
    return document


def _variables(runbook: str) -> list[cogbuilder.Builder[models.VariableModel]]:
    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _labels("instance", "Replica", "rapid_build_info"),
        _labels("model", "Model", "rapid_model_ready"),
        _labels("tier", "Tier", 'rapid_requests_total{model=~"$model"}'),
        dashboard.ConstantVariable("runbook").value(runbook),
    ]


def _labels(name: str, title: str, series: str) -> dashboard.QueryVariable:
    """A choice among the values that a label has."""
    query = f"label_values({series}, {name})"
    return (
        dashboard.QueryVariable(name)
        .label(title)
        .datasource(SOURCE)
        .query({"qryType": 1, "query": query, "refId": name})
        .definition(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")  # also the models and tiers that Grafana does not list
        .current(ALL)
    )


def _other_boards() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("Dashboards")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )


def _panel(panel: Panel) -> Builder:
    builder = _draw(panel)
    builder.title(panel.title).description(panel.description).datasource(SOURCE)
    builder.unit(panel.unit).span(panel.width)
    builder.height(NUMBER_HEIGHT if panel.kind == "number" else HEIGHT)
    builder.thresholds(_thresholds(panel.alert))
    if panel.alert:
        link = dashboard.DashboardLink(f"Runbook: {panel.alert}")
        url = f"${{runbook}}#{panel.alert.lower()}"
        builder.links([link.type(models.DashboardLinkType.LINK).url(url).target_blank(True)])
    for number, (legend, expression) in enumerate(panel.queries.items()):
        builder.with_target(_query(panel.kind, expression, legend, chr(ord("A") + number)))
    return builder


def _query(kind: Kind, expression: str, legend: str, name: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(name)
    query.datasource(SOURCE)
    if kind == "heat":
        return query.range().format(PromQueryFormat.HEATMAP)
    if kind == "table":
        return query.instant().format(PromQueryFormat.TABLE)
    return query.instant() if kind == "bars" else query.range()


def _draw(panel: Panel) -> Builder:
    """The panel, without what all kinds of panels have."""
    if panel.kind in ("lines", "stack"):
        return _lines(panel)
    if panel.kind == "number":
        return stat.Panel().graph_mode(options.BigValueGraphMode.AREA).reduce_options(_last())
    if panel.kind == "bars":
        horizontal = options.VizOrientation.HORIZONTAL
        return bargauge.Panel().orientation(horizontal).reduce_options(_last()).min(0).max(1)
    if panel.kind == "heat":
        return _heat()
    hidden = {"Time": True, "Value": True, "__name__": True, "job": True, "alertstate": True}
    only_labels = models.DataTransformerConfig("organize", options={"excludeByName": hidden})
    return table.Panel().no_value("none").with_transformation(only_labels)


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _heat() -> heatmap.Panel:
    color = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues")
    # Prometheus has counted into buckets already.
    return heatmap.Panel().calculate(False).color(color.steps(64))


def _lines(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).calcs(["lastNotNull", "max"])
    builder = (
        timeseries.Panel()
        .legend(
            legend.display_mode(options.LegendDisplayMode.TABLE).placement(
                options.LegendPlacement.BOTTOM
            )
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI))
        # The same tier has the same colour everywhere.
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .show_points(options.VisibilityMode.NEVER)
        .fill_opacity(QUIET_LINES)
    )
    if panel.alert not in ALERTS_BELOW:
        builder.min(0)
    if panel.unit == "percentunit" and panel.kind == "stack":
        builder.max(1)
    if panel.kind == "stack":
        builder.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
        builder.fill_opacity(5 * QUIET_LINES)
    if panel.alert in {**ALERTS_ABOVE, **ALERTS_BELOW}:
        dashed = options.GraphThresholdsStyleMode.DASHED
        builder.thresholds_style(common.GraphThresholdsStyleConfig().mode(dashed))
    return builder


def _thresholds(alert: str) -> dashboard.ThresholdsConfig:
    """Red where the alert would fire."""
    if alert in ALERTS_ABOVE:
        steps = [(None, "green"), (float(ALERTS_ABOVE[alert]), "red")]
    elif alert in ALERTS_BELOW:
        steps = [(None, "red"), (float(ALERTS_BELOW[alert]), "green")]
    else:
        steps = [(None, "green")]
    builder = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE)
    return builder.steps([models.Threshold(value, color) for value, color in steps])
