"""One decoding process, as the service sees it. Used by one thread at a time."""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from time import monotonic

from PIL import Image

from service.errors import ImageRejectedError, NotReadyError, ServiceError, TooLargeError
from service.images import rgb
from service.images.cut import Columns, Cut
from service.images.processes import wire
from service.images.processes.order import Order

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 5.0
BUFFER_BYTES = 2**20
"""room in the connection for the pixels of a picture, so that neither side waits for the other"""
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(8 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20)}
"""what glibc keeps of the memory of one picture for the next one; to get it anew costs 2 ms"""
ERRORS = {kind.code: kind for kind in (ImageRejectedError, TooLargeError)}


class NeedsMoreError(Exception):
    """A picture was not decoded: it needs more memory than its order allowed."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self.num_bytes = num_bytes


class AbandonedError(Exception):
    """The decoding of a picture was cancelled; nobody waits for this error."""


class Cancellation:
    """Lets any thread end the process that decodes a picture for which nobody waits any more."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.is_cancelled = False

    def cancel(self) -> None:
        """End the process if it is busy with this picture, now or later."""
        with self._lock:
            self.is_cancelled = True
            if self._process is not None:
                self._process.kill()

    @contextmanager
    def covers(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """The process is busy with this picture for as long as the context lasts."""
        with self._lock:
            self._process = process
        try:
            if self.is_cancelled:
                raise AbandonedError
            yield
        finally:
            with self._lock:
                self._process = None


class DecodingProcess:
    """A process that decodes pictures. It starts when it is needed, and again after its end."""

    def __init__(self, max_bytes: int) -> None:
        """Start nothing yet.

        Args:
            max_bytes: most memory that the system gives the process, besides what it begins with.
        """
        self._max_bytes = max_bytes
        self._in_use = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def decode(
        self, body: bytes, order: Order, timeout_s: float, cancellation: Cancellation
    ) -> Image.Image | Columns:
        """The RGB picture in a file, or what of it the order wants.

        Args:
            body: the image file.
            order: how to decode it.
            timeout_s: longest time for it.
            cancellation: may end it earlier.

        Raises:
            ImageRejectedError: no readable image, or it takes too long or crashes its decoder.
            TooLargeError: more pixels than allowed, or than there is memory for.
            NeedsMoreError: it needs more memory than the order allows.
            NotReadyError: no process can be started.
            AbandonedError: it was cancelled.
        """
        with self._in_use:
            return self._decode(body, order, timeout_s, cancellation)

    def _decode(
        self, body: bytes, order: Order, timeout_s: float, cancellation: Cancellation
    ) -> Image.Image | Columns:
        process, connection = self._started()
        try:
            with cancellation.covers(process):
                until = monotonic() + timeout_s
                wire.send(connection, order.as_message(), body, until)
                return _picture(*wire.receive(connection, 3 * order.max_pixels, until), order.cut)
        except TimeoutError as exc:
            process.kill()
            self._end()
            raise ImageRejectedError(
                f"decoding the image takes longer than {timeout_s:g} s; send a smaller one, or "
                "save it as a plain JPEG or PNG"
            ) from exc
        except (wire.SilenceError, OSError) as exc:
            status = self._end()
            if cancellation.is_cancelled:
                raise AbandonedError from exc
            raise _crash(status) from exc

    def start(self) -> None:
        """Start now, and not with the first picture.

        Raises:
            NotReadyError: the system does not let it start.
        """
        with self._in_use:
            self._started()

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._process is None or self._connection is None:
            try:
                self._process, self._connection = _start(self._max_bytes)
                wire.receive(self._connection, 0, monotonic() + START_TIMEOUT_S)
            except (OSError, wire.SilenceError) as exc:
                self._kill()
                self._end()
                raise NotReadyError(f"no decoding process can be started: {exc}") from exc
        return self._process, self._connection

    def close(self) -> None:
        """End the process, from any thread. A picture that it decodes gets an error."""
        self._kill()
        with self._in_use:
            self._end()

    def _kill(self) -> None:
        if (process := self._process) is not None:
            process.kill()

    def _end(self) -> int:
        """End the process. Its exit status, negative for a signal; 0 if none was running."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is None:
            return 0
        try:
            return process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _start(max_bytes: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A new process, and the connection to it."""
    ours, theirs = socket.socketpair()
    for side in (ours, theirs):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    path = os.pathsep.join(os.path.abspath(place) for place in sys.path)  # noqa: PTH100 - '' is the working directory
    # Without `site`: the path is complete, and nothing else that Python starts with is needed.
    command = [sys.executable, "-S", "-P", "-m", "service.images.processes.worker"]
    with theirs:
        process = subprocess.Popen(
            [*command, str(theirs.fileno()), str(max_bytes)],
            env={**os.environ, **MALLOC, "PYTHONPATH": path},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the service, which then ends its processes
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # decoders write warnings there, as many as a picture wants
        )
    return process, ours


def _picture(
    message: Mapping[str, object], pixels: bytearray, cut: Cut | None
) -> Image.Image | Columns:
    """The picture that a process has sent, or what `cut` needs of it.

    Raises:
        ServiceError: it has sent an error.
        NeedsMoreError: it wants more memory.
        wire.SilenceError: it has sent nonsense.
    """
    match message:
        case {"needs": int(num_bytes)}:
            raise NeedsMoreError(num_bytes)
        case {"error": str(code), "text": str(text)} if code in ERRORS:
            raise ERRORS[code](text)
        case {"size": [int(width), int(height)]} if 0 < 3 * width * height == len(pixels):
            return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)
        case {"columns_of": [int(width), int(height)]} if cut and min(width, height) > 0:
            left, top, right, bottom = cut.box((width, height)) or (0, 0, 0, 0)
            if 0 < 3 * (right - left) * (bottom - top) == len(pixels):
                return Columns((width, height), pixels)
    raise wire.SilenceError


def _crash(status: int) -> ServiceError:
    """The error for a picture whose process ended with this status."""
    logger.warning("a decoding process ended", extra={"exit_status": status})
    # Without memory, the system kills a process, or Python gives up.
    if status == -signal.SIGKILL or status >= 0:
        return TooLargeError(rgb.NO_MEMORY)
    return ImageRejectedError(f"the image is damaged: its decoder ended with signal {-status}")
