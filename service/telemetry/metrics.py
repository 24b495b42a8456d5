"""Every counter, gauge and histogram. Base units; labels come from short closed lists."""

from collections.abc import Iterable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from service.telemetry import logs
from service.telemetry.events import Result, WayChosen, WayTried

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series beside each one, that no panel reads

SECONDS = (
    *(0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5),
    *(1, 2, 4, 8, 15, 30),
)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BY_TIER = ("model", "tier")
BY_PROBE = ("model", "method", "tier")


class AccuracyMetrics:
    """The metrics of the answers' accuracy."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        self.probe_accuracy = gauge(
            "rapid_probe_accuracy_ratio",
            "Share of the probe pictures whose label was among the k best answers.",
            (*BY_PROBE, "k"),
        )
        self.probe_agreement = gauge(
            "rapid_probe_agreement_ratio",
            "Share of the probe pictures with the unreduced model's best answer.",
            BY_PROBE,
        )
        self.probe_baseline = gauge(
            "rapid_probe_baseline_accuracy_ratio",
            "The same as `rapid probe --baseline` measured when the model was known to be good.",
            (*BY_PROBE, "k"),
        )
        self.probe_samples = counter(
            "rapid_probe_samples_total", "Probe pictures classified.", BY_PROBE
        )
        self.probe_last_success = gauge(
            "rapid_probe_last_success_timestamp_seconds",
            "Unix time at which a probe of all tiers was last completed.",
            ("model",),
        )
        self.probe_interval = gauge(
            "rapid_probe_interval_seconds", "Setting: from one probe to the next; 0: never."
        )
        self.shadow_samples = counter(
            "rapid_shadow_samples_total",
            "Answers to clients that were compared with the unreduced model's.",
            BY_PROBE,
        )
        self.shadow_agreement = counter(
            "rapid_shadow_agreement_total", "Those of them with the same best label.", BY_PROBE
        )
        self.shadow_dropped = counter(
            "rapid_shadow_dropped_total", "Answers not compared, as the device had no spare time."
        )


class PrecisionMetrics:
    """The metrics of how the models compute, and of what was tried."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        way = ("model", "backend", "precision")
        self._chosen = gauge(
            "rapid_model_precision_info",
            "Always 1; the labels say how a model computes, and why.",
            (*way, "reason"),
        )
        self._images = gauge(
            "rapid_precision_trial_images_per_second",
            "Images a second of a precision that was tried for the model.",
            (*way, "tier"),
        )
        self._agreement = gauge(
            "rapid_precision_trial_agreement_ratio",
            "Share of the pictures of that trial that `exact` answers as in float32.",
            way,
        )

    def chosen(self, way: WayChosen) -> None:
        """A model computes like this."""
        self._chosen.labels(way.model, way.backend, way.precision, way.reason).set(1)

    def tried(self, model: str, way: WayTried) -> None:
        """A trial gave this."""
        labels = (model, way.backend, way.precision)
        for tier, images_per_s in way.images_per_s.items():
            self._images.labels(*labels, tier).set(images_per_s)
        if way.num_pictures:
            self._agreement.labels(*labels).set(way.num_agreeing / way.num_pictures)


class Metrics:
    """The metrics of one service, on a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._count_requests(registry)
        self._count_batches(registry)
        self.accuracy = AccuracyMetrics(registry)
        self.precision = PrecisionMetrics(registry)
        self._describe_process(registry)

    def _count_requests(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        seconds = partial(Histogram, buckets=SECONDS, registry=registry)
        self.requests = counter(
            "rapid_requests_total",
            "Requests that are over, by HTTP status and by what became of them.",
            (*BY_TIER, "code", "result"),
        )
        self.request_seconds = seconds(
            "rapid_request_duration_seconds",
            "From the arrival of a request to its answer.",
            (*BY_TIER, "result"),
        )
        self.decode_seconds = seconds(
            "rapid_decode_duration_seconds",
            "Decoding and resizing one image, waiting for a decoding thread included.",
            ("model",),
        )
        self.queue_seconds = seconds(
            "rapid_queue_duration_seconds",
            "From the decoded image to the start of its batch.",
            BY_TIER,
        )
        self.inference_seconds = seconds(
            "rapid_inference_duration_seconds",
            "Computing the batch that an image was in.",
            BY_TIER,
        )
        self.images = counter("rapid_images_total", "Images classified.", BY_TIER)
        self.tokens = counter(
            "rapid_tokens_total",
            "Tokens of classified images that came out of the last block, or were removed before.",
            (*BY_TIER, "kind"),
        )
        self.macs = counter(
            "rapid_macs_total", "Multiply-adds done for classified images.", BY_TIER
        )
        self.choices = counter(
            "rapid_choices_total",
            "Requests by the tier that was chosen for them, and why.",
            (*BY_TIER, "reason"),
        )
        self.rejected = counter(
            "rapid_rejected_total", "Images and requests refused, by error code.", ("reason",)
        )
        self.cancelled = counter(
            "rapid_cancelled_total",
            "Requests whose client left before the answer, by how far they had come.",
            ("phase",),
        )
        self.inflight_requests = Gauge(
            "rapid_inflight_requests", "Requests being answered.", registry=registry
        )

    def _count_batches(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        self.batch_size = Histogram(
            "rapid_batch_size",
            "Images of clients in a batch.",
            ("model", "method"),
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self.dispatches = counter(
            "rapid_batch_dispatch_total", "Batches by what made them start.", ("reason",)
        )
        self.device_busy = counter(
            "rapid_device_busy_seconds_total",
            "Time that the device spent on batches, for clients or on probes.",
            ("work",),
        )
        self.running_batch = gauge(
            "rapid_running_batch_seconds",
            "How long the oldest batch of the present ones has been running; 0: none.",
        )
        self.queue_images = gauge("rapid_queue_images", "Images that wait for their batch.")
        self.saturation = gauge(
            "rapid_saturation_ratio", "How close the service is to refusing requests, 0 to 1."
        )
        self.brownout_level = gauge(
            "rapid_brownout_level", "Tiers by which requests that allow it are lowered."
        )

    def _describe_process(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        self.ready = gauge("rapid_ready", "1 while `/readyz` says so.")
        self.model_ready = gauge(
            "rapid_model_ready", "1 once the model is loaded and warm.", ("model",)
        )
        self.device_memory = gauge(
            "rapid_device_memory_bytes",
            "Memory of the device; of the CPU, what this process uses and what the machine has.",
            ("kind",),
        )
        self.log_lines_dropped = Counter(
            "rapid_log_lines_dropped_total",
            "Lines of the process's log that nobody read in time, or that could not be written.",
            registry=registry,
        )
        self._num_log_lines_dropped = 0
        self.build_info = gauge(
            "rapid_build_info",
            "Always 1; the labels say what is running.",
            ("version", "torch", "timm", "device", "backend", "precision"),
        )

    def expect_requests(self, model: str, tier: str, endings: Iterable[tuple[int, Result]]) -> None:
        """Start counters at zero: one that appears with its first event hides it from rate()."""
        for code, result in endings:
            self.requests.labels(model, tier, str(code), result)

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        num_dropped = logs.num_dropped()
        self.log_lines_dropped.inc(num_dropped - self._num_log_lines_dropped)
        self._num_log_lines_dropped = num_dropped
        return generate_latest(self._registry)
