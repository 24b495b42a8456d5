"""Everything that can go wrong with a request, each with a stable code. No HTTP here.

ServiceError
├── InvalidRequestError     the body is not what its content type says
├── ImageRejectedError      the bytes are no readable image
├── UnauthorizedError       no key, or an unknown one
├── SlowClientError         the request took too long to arrive
├── TooLargeError           more bytes, pixels or images than allowed
├── UnsupportedMediaError   the content type cannot hold an image
├── InvalidParameterError   well-formed, but outside what is allowed
├── ModelNotFoundError      no loaded model has this name
├── OverloadedError         too much work inside; trying again later will work
├── TooManyRequestsError    too many requests of one key inside
├── NotReadyError           loading, draining or failed
├── DeadlineExceededError   the answer was not ready before the deadline
└── InferenceError          the model failed; not the client's fault
    └── OutOfDeviceMemoryError   the batch did not fit
"""

from collections.abc import Iterator


class ServiceError(Exception):
    """A request that cannot be answered; the message says what is allowed instead."""

    code = "internal"
    retry_after_s: int | None = None


class InvalidRequestError(ServiceError):
    """The body is not what its content type says."""

    code = "invalid_request"


class ImageRejectedError(ServiceError):
    """The bytes are no readable image."""

    code = "invalid_image"


class UnauthorizedError(ServiceError):
    """The request has no API key, or an unknown one."""

    code = "unauthorized"


class SlowClientError(ServiceError):
    """The request did not arrive in the time allowed."""

    code = "slow_client"


class TooLargeError(ServiceError):
    """More bytes, pixels or images than allowed."""

    code = "too_large"


class UnsupportedMediaError(ServiceError):
    """The content type cannot hold an image."""

    code = "unsupported_media_type"


class InvalidParameterError(ServiceError):
    """A parameter is well-formed, but outside what is allowed."""

    code = "invalid_parameter"


class ModelNotFoundError(ServiceError):
    """No loaded model has this name."""

    code = "model_not_found"


class OverloadedError(ServiceError):
    """The most work that is allowed is waiting; trying again later will work."""

    code = "overloaded"

    def __init__(self, message: str, retry_after_s: int) -> None:
        """`retry_after_s`: whole seconds after which the client should try again."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyRequestsError(ServiceError):
    """One API key has the most requests inside that it may have."""

    code = "too_many_requests"
    retry_after_s = 1


class NotReadyError(ServiceError):
    """The models are still loading, or the service is shutting down or broken."""

    code = "not_ready"
    retry_after_s = 5


class DeadlineExceededError(ServiceError):
    """The answer was not ready before the deadline."""

    code = "deadline_exceeded"


class InferenceError(ServiceError):
    """The model could not compute an answer."""

    code = "inference_failed"


class OutOfDeviceMemoryError(InferenceError):
    """A batch did not fit into the memory of the device."""

    code = "out_of_device_memory"


def all_errors() -> Iterator[type[ServiceError]]:
    """Every kind of `ServiceError` that a client may get."""
    waiting = list(ServiceError.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        yield kind


class DeviceStuckError(Exception):
    """A batch does not end; the process has to be restarted."""


class ModelLoadError(Exception):
    """A configured model cannot be served; the service does not start."""


class SettingsError(Exception):
    """A setting is misspelt or out of range; the service does not start."""
