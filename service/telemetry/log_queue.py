"""Lines for a reader that may be slow, silent or gone: whoever writes one never waits.

A blocked write to standard error would otherwise block the event loop, and with it every request
and the handling of signals.
"""

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable

MAX_WAITING_BYTES = 512 * 1024
"""most bytes of lines that wait, about 1,400 lines; further lines are dropped"""
FLUSH_S = 2.0
"""seconds for which the end of the process waits for lines that have not been written"""
POLL_S = 1.0


class LineQueue:
    """A bounded queue of lines, and the thread that writes them in their order.

    May be used from any thread.
    """

    def __init__(self, fd: int | None, report: Callable[[int], bytes]) -> None:
        """Start the thread.

        Args:
            fd: the descriptor to write to; None: there is nobody to write to.
            report: makes the line that says how many lines are missing at its place.
        """
        self.num_dropped = 0
        """lines that were not written, and never will be"""
        self._fd = fd
        self._report = report
        # Its lock is reentrant: a signal's handler may write a line in the middle of another one.
        self._changed = threading.Condition()
        self._lines: deque[bytes | None] = deque()
        """None: here lines are missing"""
        self._num_bytes = 0
        self._num_unreported = 0
        self._is_full = False
        self._is_writing = False
        self._has_failed = False
        self._is_torn = False
        # A daemon: the process ends although the thread may be blocked in a write.
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: bytes) -> None:
        """Have a line written, or drop it if there is no room. It ends with a newline."""
        with self._changed:
            if not self._is_full and self._num_bytes + len(line) <= MAX_WAITING_BYTES:
                self._lines.append(line)
                self._num_bytes += len(line)
            else:
                if not self._is_full:
                    self._is_full = True
                    self._lines.append(None)
                self._drop()
            self._changed.notify_all()

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until all lines are written, at most so many seconds; False: they are not."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout_s)

    def _is_idle(self) -> bool:
        return not (self._lines or self._is_writing)

    def _drop(self) -> None:
        with self._changed:
            self.num_dropped += 1
            self._num_unreported += 1

    def _run(self) -> None:
        while True:
            line = self._next()
            if line is None or self._has_failed:
                self._write_report()
            if line is not None and not self._write(line):
                self._has_failed = True
                self._drop()

    def _next(self) -> bytes | None:
        """Wait for the next line."""
        with self._changed:
            self._is_writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._lines)
            self._is_writing = True
            line = self._lines.popleft()
            self._num_bytes -= len(line or b"")
            # Not as soon as one line has room: a slow reader would get a report with every line.
            if self._num_bytes <= MAX_WAITING_BYTES // 2:
                self._is_full = False
            return line

    def _write_report(self) -> None:
        with self._changed:
            num_missing = self._num_unreported
        self._has_failed = not self._write(self._report(num_missing))
        if not self._has_failed:
            with self._changed:
                self._num_unreported -= num_missing

    def _write(self, line: bytes) -> bool:
        """Write a line; False: it cannot be written, as the reader is gone or the disk is full."""
        if self._fd is None:
            return False
        whole = b"\n" + line if self._is_torn else line
        num_written = 0
        while num_written < len(whole):
            try:
                num_written += os.write(self._fd, whole[num_written:])
            except BlockingIOError:  # a process that shares the pipe has made it non-blocking
                select.select((), (self._fd,), (), POLL_S)
            except OSError:
                break
        if num_written:
            self._is_torn = num_written < len(whole)
        return num_written == len(whole)


class QueuedText(io.TextIOBase):
    """A text file over a queue of lines, to take the place of `sys.stderr`.

    Libraries, `print` and the interpreter's own tracebacks write to it.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, lines: LineQueue, fd: int | None) -> None:
        self._queue = lines
        self._fd = fd
        self._begun = ""

    def write(self, text: str, /) -> int:
        """Put all lines that are complete; the rest waits for its end."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._queue.put(f"{line}\n".encode(self.encoding, self.errors))
        return len(text)

    def fileno(self) -> int:
        """The descriptor that the lines are written to.

        Raises:
            OSError: there is none.
        """
        return super().fileno() if self._fd is None else self._fd

    def isatty(self) -> bool:
        """Whether the lines are written to a terminal."""
        return self._fd is not None and os.isatty(self._fd)

    def writable(self) -> bool:
        """Always."""
        return True
