"""Memory that pictures share while they are decoded."""

from threading import Condition


class Budget:
    """So many bytes in all. Used from the decoding threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._free = max_bytes
        self._num_waiting = 0
        self._changed = Condition()

    def try_take(self, num_bytes: int) -> bool:
        """Take some, if they are free and nobody waits for more."""
        with self._changed:
            if self._num_waiting or num_bytes > self._free:
                return False
            self._free -= num_bytes
            return True

    def take(self, num_bytes: int) -> None:
        """Take some, at most `max_bytes`, as soon as they are free."""
        with self._changed:
            self._num_waiting += 1
            self._changed.wait_for(lambda: num_bytes <= self._free)
            self._num_waiting -= 1
            self._free -= num_bytes

    def give(self, num_bytes: int) -> None:
        """Give some back."""
        with self._changed:
            self._free += num_bytes
            self._changed.notify_all()
