"""The errors of this library.

RapidError                  anything this library refuses
├── UnsupportedModelError   the model has a part whose result cannot be reproduced
└── InvalidScheduleError    r, input_size, method or one of its options is not a possible reduction
"""


class RapidError(ValueError):
    """Anything that `rapid_core` refuses; the message says what is allowed."""


class UnsupportedModelError(RapidError):
    """The model has a part whose result cannot be reproduced; the message names it."""


class InvalidScheduleError(RapidError):
    """`r`, `input_size`, the method or one of its options is not a possible reduction."""
