"""What the device and the process do, and what runs on them."""

from deploy.grafana.generate.parts import Board, Panel
from deploy.grafana.generate.queries import MODEL, REPLICA, rate, share

BUSY = rate("rapid_device_busy_seconds_total", f'{REPLICA}, work="clients"', "instance")
SERVICE = f'job=~".*rapid.*", {REPLICA}'

WORK = (
    Panel(
        kind="stack",
        title="Device busy",
        unit="percentunit",
        queries={
            "{{work}}": "avg by (work) "
            f"(rate(rapid_device_busy_seconds_total{{{REPLICA}}}[$__rate_interval]))"
        },
        description="Share of the time in which a batch ran, for clients or in spare time, on "
        "average over the replicas. Near 100 % for clients, the device is the bottleneck. A batch "
        "counts when it ends.",
    ),
    Panel(
        kind="lines",
        title="The present batch has been running for",
        unit="s",
        queries={"{{instance}}": f"rapid_running_batch_seconds{{{REPLICA}}}"},
        description="Above 15 s the device hangs; after RAPID_BATCH_TIMEOUT_S the process ends.",
        alert="RapidDeviceLoopStuck",
    ),
    Panel(
        kind="lines",
        title="Images in a busy second",
        unit="short",
        queries={
            "{{instance}}": share(
                f"sum by (instance) (rate(rapid_images_total{{{REPLICA}}}[$__rate_interval]))",
                BUSY,
            )
        },
        description="What a replica could do at most, with these tiers and batch sizes.",
    ),
    Panel(
        kind="lines",
        title="Multiply-adds in a busy second",
        unit="short",
        queries={"{{instance}}": share(rate("rapid_macs_total", REPLICA, "instance"), BUSY)},
        description="How well the device is used. It rises with the batch size, and falls when "
        "something else uses the device, or it is throttled.",
        width=12,
    ),
    Panel(
        kind="number",
        title="Models ready",
        unit="short",
        queries={"{{model}}": f"sum by (model) (rapid_model_ready{{{MODEL}}})"},
        description="On how many replicas each model is loaded and warm.",
        alert="RapidReplicaNotReady",
        width=12,
    ),
)

PROCESS = (
    Panel(
        kind="lines",
        title="Memory of the device",
        unit="bytes",
        queries={"{{instance}} {{kind}}": f"rapid_device_memory_bytes{{{REPLICA}}}"},
        description="Of a GPU: used by anyone, and all there is. Of the CPU: used by this process, "
        "and all that the machine has; a container's limit may be less.",
    ),
    Panel(
        kind="lines",
        title="Memory of the process",
        unit="bytes",
        queries={"{{instance}}": f"process_resident_memory_bytes{{{SERVICE}}}"},
        description="In the machine's memory. It is flat once all tiers have run.",
    ),
    Panel(
        kind="lines",
        title="CPU cores in use",
        unit="short",
        queries={"{{instance}}": f"rate(process_cpu_seconds_total{{{SERVICE}}}[$__rate_interval])"},
        description="By decoding, and by inference where the device is the CPU.",
    ),
    Panel(
        kind="lines",
        title="Files and connections open",
        unit="percentunit",
        queries={"{{instance}}": f"process_open_fds{{{SERVICE}}} / process_max_fds{{{SERVICE}}}"},
        description="Share of what the process may have open. At 100 % it accepts nobody.",
        width=12,
    ),
    Panel(
        kind="lines",
        title="Log lines dropped",
        unit="ops",
        queries={"{{instance}}": rate("rapid_log_lines_dropped_total", REPLICA, "instance")},
        description="Nobody reads the service's standard error, or its disk is full. Requests are "
        "answered all the same; the log has a line with the number where lines are missing.",
        width=12,
    ),
    Panel(
        kind="table",
        title="Versions",
        unit="short",
        queries={"": f"rapid_build_info{{{REPLICA}}}"},
        description="What each replica runs. Two versions for long: an update that stopped.",
        width=24,
    ),
    Panel(
        kind="table",
        title="Precision of each model",
        unit="short",
        queries={"": f"rapid_model_precision_info{{{REPLICA}}}"},
        description="How each replica computes a model, and why. Where replicas differ, their "
        "processors do, or a trial failed on one of them.",
        width=12,
    ),
    Panel(
        kind="lines",
        title="Precisions that were tried: images per second",
        unit="short",
        queries={
            "{{precision}}, {{backend}}, {{tier}}": "max by (precision, backend, tier) "
            f"(rapid_precision_trial_images_per_second{{{REPLICA}}})"
        },
        description="What a trial measured at the first start on this machine.",
        width=6,
    ),
    Panel(
        kind="lines",
        title="Precisions that were tried: answers as in float32",
        unit="percentunit",
        queries={
            "{{precision}}, {{backend}}": "min by (precision, backend) "
            f"(rapid_precision_trial_agreement_ratio{{{REPLICA}}})"
        },
        description="Share of the pictures that `exact` answers as in float32. Below 99 %, a "
        "precision is not taken.",
        width=6,
    ),
)

BOARD = Board(
    uid="rapid-device",
    title="rapid-vit: device",
    description=__doc__,
    rows={"Work": WORK, "Process": PROCESS},
)
