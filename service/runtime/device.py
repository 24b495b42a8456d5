"""The device, ready to compute: which backend prepares for batches, and with how many threads."""

from service.backends import devices
from service.backends.contract import Prepared
from service.backends.cuda_graphs import CudaRecorder, Graphs
from service.backends.engine import Engine, Threads, share_out
from service.backends.placement import Placement


def open_engine(
    placement: Placement, *, num_threads: int, num_streams: int, max_graph_bytes: int
) -> Engine:
    """The engine of a device.

    Args:
        placement: where the models are, and how they compute.
        num_threads: as `share_out` takes it.
        num_streams: as `share_out` takes it.
        max_graph_bytes: most memory for graphs of prepared batches; 0: no graphs.

    Raises:
        SettingsError: there is no such device, or it cannot run so many streams.
    """
    devices.check(str(placement.device))
    threads = share_out(placement, num_threads, num_streams)
    prepared = prepare(placement, threads, max_bytes=max_graph_bytes)
    return Engine(placement, **threads._asdict(), prepared=prepared)


def prepare(placement: Placement, threads: Threads, *, max_bytes: int) -> Prepared | None:
    """The graphs of a device; None if it has none, or if they may take no memory."""
    if max_bytes == 0:
        return None
    if placement.backend == "openvino":
        # Not at the top: the package is an extra, and takes a second to import.
        from service.backends.openvino_graphs import full_batches

        return full_batches(**threads._asdict(), max_bytes=max_bytes)
    if placement.device.type == "cuda":
        return Graphs(CudaRecorder(placement.device), placement.device, max_bytes=max_bytes)
    return None
