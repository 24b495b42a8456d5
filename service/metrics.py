"""Every counter, gauge and histogram. Base units; labels come from short closed lists."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series beside each one, that no panel reads

SECONDS = (
    0.0005,
    0.001,
    0.002,
    0.004,
    0.008,
    0.015,
    0.03,
    0.06,
    0.125,
    0.25,
    0.5,
    1,
    2,
    4,
    8,
    15,
    30,
)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CUSTOM_TIER = "custom"
"""the `tier` label of requests that name r themselves."""


class Metrics:
    """The metrics of one service, on a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything."""
        self._registry = registry
        by_tier = ("model", "tier")
        self.requests = Counter(
            "rapid_requests_total",
            "Requests answered, by HTTP status.",
            (*by_tier, "code"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "rapid_request_duration_seconds",
            "From the arrival of a request to its answer.",
            by_tier,
            buckets=SECONDS,
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "rapid_decode_duration_seconds",
            "Decoding and resizing one image, waiting for a decoding thread included.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "rapid_queue_duration_seconds",
            "From the decoded image to the start of its batch.",
            by_tier,
            buckets=SECONDS,
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "rapid_inference_duration_seconds",
            "Computing the batch that an image was in.",
            by_tier,
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "rapid_batch_size",
            "Images in a batch.",
            ("model", "method"),
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self.images = Counter(
            "rapid_images_total", "Images classified.", by_tier, registry=registry
        )
        self.rejected = Counter(
            "rapid_rejected_total",
            "Images and requests refused, by error code.",
            ("reason",),
            registry=registry,
        )
        self.cancelled = Counter(
            "rapid_cancelled_total",
            "Requests whose client left before the answer, by how far they had come.",
            ("phase",),
            registry=registry,
        )
        self.choices = Counter(
            "rapid_choices_total",
            "Requests by the tier that was chosen for them, and why.",
            (*by_tier, "reason"),
            registry=registry,
        )
        self.dispatches = Counter(
            "rapid_batch_dispatch_total",
            "Batches by what made them start.",
            ("reason",),
            registry=registry,
        )
        self.saturation = Gauge(
            "rapid_saturation_ratio",
            "How close the service is to refusing requests, 0 to 1.",
            registry=registry,
        )
        self.brownout_level = Gauge(
            "rapid_brownout_level",
            "Tiers by which requests that allow it are lowered.",
            registry=registry,
        )
        self.queue_images = Gauge(
            "rapid_queue_images", "Images that wait for their batch.", registry=registry
        )
        self.inflight_requests = Gauge(
            "rapid_inflight_requests", "Requests being answered.", registry=registry
        )
        self.model_ready = Gauge(
            "rapid_model_ready",
            "1 once the model is loaded and warm.",
            ("model",),
            registry=registry,
        )
        self.build_info = Gauge(
            "rapid_build_info",
            "Always 1; the labels say what is running.",
            ("version", "torch", "timm", "device"),
            registry=registry,
        )

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
