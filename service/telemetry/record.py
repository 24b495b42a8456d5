"""The only writer of metrics, of the log's events and of the protocols' statistics.

Each method stands for one event, and writes its metrics, log lines and statistics.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from http import HTTPStatus
from time import monotonic

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry

from service.errors import ServiceError, all_errors
from service.telemetry.events import (
    CLIENT_GONE,
    CUSTOM_TIER,
    PHASES,
    UNKNOWN,
    BatchDone,
    Build,
    Call,
    Gauges,
    ImageDone,
    ModelLoaded,
    ProbeDone,
    Result,
    TierMeasured,
    WayChosen,
)
from service.telemetry.metrics import AccuracyMetrics, Metrics
from service.telemetry.model_statistics import ModelStatistics
from service.tiers import TIERS

logger = logging.getLogger(__name__)

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""media type of the text that `render` returns"""


class AccuracyRecord:
    """Takes the events about accuracy. Used from the event loop only."""

    def __init__(self, metrics: AccuracyMetrics) -> None:
        self._metrics = metrics

    def probes_begin(self, interval_s: float) -> None:
        """The service probes its models every `interval_s` seconds; 0: never."""
        self._metrics.probe_interval.set(interval_s)

    def baseline_known(self, model: str, baseline: TierMeasured) -> None:
        """The accuracy of a tier was read, measured when the model was known to be good."""
        labels = (model, baseline.method, baseline.tier)
        self._metrics.probe_baseline.labels(*labels, "1").set(baseline.top1)
        self._metrics.probe_baseline.labels(*labels, "5").set(baseline.top5)

    def pictures_probed(self, model: str, method: str, tier: str, num_pictures: int) -> None:
        """A tier has classified `num_pictures` more probe pictures; 0 starts its counter."""
        self._metrics.probe_samples.labels(model, method, tier).inc(num_pictures)

    def probe_began(self, probe: ProbeDone) -> None:
        """All tiers have classified the first pictures: too few for a metric with an alert."""
        logger.info("first pictures probed", extra=_about(probe))

    def probe_done(self, probe: ProbeDone) -> None:
        """All tiers have classified all probe pictures of a model."""
        self._set(probe)
        logger.info("probed", extra=_about(probe))

    def probe_recalled(self, probe: ProbeDone, age_s: float) -> None:
        """An earlier process has measured the same model, on the same pictures and machine."""
        self._set(probe)
        logger.info("probe of an earlier start", extra={**_about(probe), "age_s": round(age_s)})

    def _set(self, probe: ProbeDone) -> None:
        for tier in probe.tiers:
            labels = (probe.model, tier.method, tier.tier)
            self._metrics.probe_accuracy.labels(*labels, "1").set(tier.top1)
            self._metrics.probe_accuracy.labels(*labels, "5").set(tier.top5)
            self._metrics.probe_agreement.labels(*labels).set(tier.agreement)
        self._metrics.probe_last_success.labels(probe.model).set(probe.finished)

    def shadow_done(self, model: str, method: str, tier: str, *, agrees: bool) -> None:
        """An answer to a client was compared with the unreduced model's."""
        self._metrics.shadow_samples.labels(model, method, tier).inc()
        self._metrics.shadow_agreement.labels(model, method, tier).inc(agrees)

    def shadow_dropped(self) -> None:
        """An answer was not compared, because the device had no spare time."""
        self._metrics.shadow_dropped.inc()


class Record:
    """Takes every other event. Used from the event loop only."""

    def __init__(self) -> None:
        self._metrics = Metrics(CollectorRegistry())
        self.accuracy = AccuracyRecord(self._metrics.accuracy)
        self._statistics: defaultdict[str, ModelStatistics] = defaultdict(ModelStatistics)
        self._endings: tuple[tuple[int, Result], ...] = ()
        for phase in PHASES:
            self._metrics.cancelled.labels(phase)
        for error in all_errors():
            self._metrics.rejected.labels(error.code)
        for work in ("clients", "spare"):
            self._metrics.device_busy.labels(work)

    def started(self, build: Build, *, dispatch_reasons: Iterable[str]) -> None:
        """The process has started.

        Counters start at zero here: a counter that appears with its first event hides that event
        from `rate()`.
        """
        self._metrics.build_info.labels(*build).set(1)
        for reason in dispatch_reasons:
            self._metrics.dispatches.labels(reason)

    def expect_statuses(self, statuses: Iterable[int]) -> None:
        """An API may answer with these HTTP statuses, besides 200."""
        self._endings = tuple(
            (status, result)
            for status in statuses
            for result in sorted({_result(status, too_tight) for too_tight in (False, True)})
        )
        self._metrics.expect_requests(UNKNOWN, UNKNOWN, self._endings)

    def watch(self, gauges: Gauges) -> None:
        """Call these functions at every scrape."""
        self._metrics.queue_images.set_function(gauges.queue_images)
        self._metrics.running_batch.set_function(gauges.running_batch)
        self._metrics.saturation.set_function(gauges.saturation)
        self._metrics.brownout_level.set_function(gauges.brownout_level)
        self._metrics.ready.set_function(gauges.ready)
        for kind, num_bytes in gauges.device_memory.items():
            self._metrics.device_memory.labels(kind).set_function(num_bytes)

    def model_loaded(self, model: ModelLoaded) -> None:
        """A model is ready for requests."""
        self._metrics.model_ready.labels(model.name).set(1)
        for tier in (*TIERS, CUSTOM_TIER):
            self._metrics.expect_requests(model.name, tier, ((200, "answered"), *self._endings))
        about = model._asdict()
        logger.info("model ready", extra={"model": about.pop("name"), **about})

    def way_chosen(self, way: WayChosen) -> None:
        """It was decided how a model computes."""
        for tried in way.tried:
            self._metrics.precision.tried(way.model, tried)
            about = {name: one for name, one in asdict(tried).items() if one not in (None, {})}
            logger.info("precision tried", extra={"model": way.model, **about})
        self._metrics.precision.chosen(way)
        about = asdict(way)
        del about["tried"]
        logger.info("precision chosen", extra=about)

    def answering(self) -> AbstractContextManager[object]:
        """A request is inside for as long as the context lasts."""
        return self._metrics.inflight_requests.track_inprogress()

    def refused(self, error: ServiceError) -> None:
        """An image or a request got this error instead of an answer."""
        self._metrics.rejected.labels(error.code).inc()

    def client_left(self, call: Call) -> None:
        """A client left before it got its answer."""
        self._metrics.cancelled.labels(call.phase).inc()

    def request_done(self, call: Call, path: str, status: int) -> None:
        """A request is over; `path` is the route's template, without the client's values."""
        total_s = monotonic() - call.arrival
        call.took(total=total_s)
        labels = (call.model, call.tier)
        result = _result(status, call.is_too_tight)
        self._metrics.requests.labels(*labels, str(status), result).inc()
        if call.reason is not None:
            self._metrics.choices.labels(*labels, call.reason).inc()
        self._metrics.request_seconds.labels(*labels, result).observe(total_s)
        self._log(call, path, status, result)

    def reading_refused(self, call: Call, path: str, status: int) -> None:
        """A request that asks for no work was refused, as its client may see nothing."""
        self._log(call, path, status, "refused")

    def _log(self, call: Call, path: str, status: int, result: Result) -> None:
        logger.log(
            logging.WARNING if result == "failed" else logging.INFO,
            "request",
            extra={
                "path": path,
                "status": status,
                "result": result,
                "code": call.code,
                "phase": call.phase,
                "model": call.model,
                "tier": call.tier,
                "num_images": call.num_images,
                "num_failed": call.num_failed,
                "deadline_ms": call.deadline_ms,
                "api_key": call.api_key,
                **{f"{name}_ms": round(1000 * s, 3) for name, s in call.timings_s.items()},
            },
        )

    def image_done(self, call: Call, image: ImageDone) -> None:
        """An image of a request was answered."""
        labels = (call.model, call.tier)
        self._metrics.images.labels(*labels).inc()
        self._metrics.macs.labels(*labels).inc(image.macs)
        self._metrics.tokens.labels(*labels, "kept").inc(image.num_kept)
        self._metrics.tokens.labels(*labels, "removed").inc(image.num_removed)
        self._metrics.decode_seconds.labels(call.model).observe(image.decode_s)
        self._metrics.queue_seconds.labels(*labels).observe(image.queue_s)
        self._metrics.inference_seconds.labels(*labels).observe(image.inference_s)
        self._statistics[call.model].answered(
            decode_s=image.decode_s, queue_s=image.queue_s, inference_s=image.inference_s
        )
        call.took(decode=image.decode_s, queue=image.queue_s, inference=image.inference_s)

    def image_failed(self, call: Call) -> None:
        """An image of a request got no answer."""
        call.num_failed += 1
        self._statistics[call.model].failed(monotonic() - call.arrival)

    def batch_done(self, batch: BatchDone) -> None:
        """A batch was computed."""
        self._metrics.dispatches.labels(batch.reason).inc()
        work = "spare" if batch.is_spare else "clients"
        self._metrics.device_busy.labels(work).inc(batch.device_s)
        if not batch.is_spare:
            model, method = batch.lane.model, batch.lane.method
            self._metrics.batch_size.labels(model, method).observe(batch.num_images)
            self._statistics[model].executed(batch.num_images, batch.seconds)

    def statistics(self, model: str) -> ModelStatistics:
        """Counts of one model since the process started."""
        return self._statistics[model]

    def render(self) -> bytes:
        """All metrics in Prometheus' text format, see `MEDIA_TYPE`."""
        return self._metrics.render()


def _about(probe: ProbeDone) -> dict[str, object]:
    return {
        "model": probe.model,
        "num_pictures": probe.num_pictures,
        "seconds": round(probe.seconds, 3),
        "top1": {tier.tier: round(tier.top1, 4) for tier in probe.tiers},
    }


def _result(status: int, is_too_tight: bool) -> Result:
    """What became of a request with this HTTP status, see `Call.is_too_tight`."""
    if status == CLIENT_GONE:
        return "left"
    if status < HTTPStatus.BAD_REQUEST:
        return "answered"
    is_own_fault = status < HTTPStatus.INTERNAL_SERVER_ERROR
    is_hopeless = status == HTTPStatus.GATEWAY_TIMEOUT and is_too_tight
    return "refused" if is_own_fault or is_hopeless else "failed"
