"""Threads that decode pictures, each with a process of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from service.images.processes.process import DecodingProcess

T = TypeVar("T")


class DecodeLane:
    """Some threads with a queue. A process starts with the first picture of its thread."""

    def __init__(self, name: str, num_threads: int, max_bytes: int) -> None:
        """Start nothing yet.

        Args:
            name: prefix of the threads' names.
            num_threads: how many.
            max_bytes: most memory that the system gives each process for a picture.
        """
        self._num_threads = num_threads
        self._max_bytes = max_bytes
        self._of_thread = threading.local()
        self._processes: list[DecodingProcess] = []
        # One picture is too little work to share among PyTorch's own threads.
        self._threads = ThreadPoolExecutor(
            num_threads,
            thread_name_prefix=name,
            initializer=torch.set_num_threads,
            initargs=(1,),
        )

    def submit(self, work: Callable[..., T], *given: object) -> "Future[T]":
        """Have a thread do some work."""
        return self._threads.submit(work, *given)

    def start(self) -> "list[Future[None]]":
        """Start all threads and their processes now."""
        all_started = threading.Barrier(self._num_threads)

        def begin() -> None:
            self.process.start()
            all_started.wait()  # so that each thread begins once

        return [self.submit(begin) for _ in range(self._num_threads)]

    @property
    def process(self) -> DecodingProcess:
        """The process of the thread that asks."""
        if not hasattr(self._of_thread, "process"):
            self._of_thread.process = DecodingProcess(self._max_bytes)
            self._processes.append(self._of_thread.process)
        process: DecodingProcess = self._of_thread.process
        return process

    def close(self) -> None:
        """Begin no further work, and end the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.close()
