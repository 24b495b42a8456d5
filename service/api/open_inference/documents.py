"""The protocol's documents about a model: metadata, configuration, statistics."""

from service.models.served import ServedModel
from service.telemetry.model_statistics import Duration, ModelStatistics

VERSION = "1"
"""the only version of every model"""
IMAGE = "image"
PIXELS = "pixel_values"
LOGITS = "logits"
PROBABILITIES = "probabilities"
OUTPUTS = (LOGITS, PROBABILITIES)
EXTENSIONS = [
    *("binary_tensor_data", "classification", "model_configuration", "parameters"),
    *("schedule_policy", "statistics"),
]


def metadata(model: ServedModel) -> dict[str, object]:
    """Inputs and outputs of a model. A request has one of the inputs. -1: any number of images."""
    num_classes = len(model.labels)
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "pytorch_eager",
        "inputs": [
            {"name": IMAGE, "datatype": "BYTES", "shape": [-1]},
            {"name": PIXELS, "datatype": "FP32", "shape": [-1, *model.input_size]},
        ],
        "outputs": [
            {"name": name, "datatype": "FP32", "shape": [-1, num_classes]} for name in OUTPUTS
        ],
    }


def configuration(model: ServedModel, max_images: int) -> dict[str, object]:
    """A model's configuration as Triton writes it: no batch dimension, and optional inputs.

    Args:
        model: the model.
        max_images: most images in a request.
    """
    dims = list(model.input_size)
    return {
        "name": model.name,
        "platform": "pytorch_eager",
        "backend": "pytorch",
        "max_batch_size": max_images,
        "input": [
            {"name": IMAGE, "data_type": "TYPE_STRING", "dims": [], "optional": True},
            {"name": PIXELS, "data_type": "TYPE_FP32", "dims": dims, "optional": True},
        ],
        "output": [
            {"name": name, "data_type": "TYPE_FP32", "dims": [len(model.labels)]}
            for name in OUTPUTS
        ],
        "dynamic_batching": {"priority_levels": 2, "default_priority_level": 2},
    }


def statistics(name: str, counts: ModelStatistics) -> dict[str, object]:
    """Counts of one model since it was loaded."""
    durations = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    nothing = _duration(Duration())
    return {
        "name": name,
        "version": VERSION,
        "last_inference": counts.last_inference_ms,
        "inference_count": counts.num_images,
        "execution_count": counts.num_batches,
        "inference_stats": {
            **{name: _duration(getattr(counts, name)) for name in durations},
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": {**nothing, "count": duration.count},
                "compute_infer": _duration(duration),
                "compute_output": {**nothing, "count": duration.count},
            }
            for size, duration in sorted(counts.by_batch_size.items())
        ],
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
