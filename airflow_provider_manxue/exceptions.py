"""
The errors of this package.

Each derives from :class:`ManxueError`, which is an ``AirflowException``, so that Airflow's own handling
(retries, callbacks, ``soft_fail``) applies. Errors that a retry cannot cure are also ``AirflowFailException``, and a
timeout is an ``AirflowSensorTimeout``: Airflow retries neither.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout


class ManxueError(AirflowException):
    """
    Base of every error of this package.

    :param message: the reason.
    :param retry_after: pause that the service requested, in seconds; None if it requested none.
    """

    since: float | None = None
    """Start of the trouble, in seconds since the epoch, if it is older than this error; None otherwise."""

    def __init__(self, message: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ManxueConfigurationError(ManxueError):
    """A field of the Airflow connection, or an environment variable, is not usable. Nothing was sent."""


class ManxueConnectionNotFoundError(ManxueConfigurationError):
    """The connection was not found. Airflow's clients report an outage of a secrets backend in the same way."""


class ManxueInternalError(ManxueError):
    """An unexpected exception ended a poll. The log has its type and its stack frames."""


class ManxueInputError(ManxueError, AirflowFailException):
    """An argument is not usable. Nothing was sent."""


class ManxueTransientError(ManxueError):
    """The service could not be reached, or sent no usable response. A retry may succeed."""


class ManxueRateLimitError(ManxueTransientError):
    """The service rejected a request with HTTP 429, too many requests."""


class ManxueAuthenticationError(ManxueError):
    """The service refused the API key (HTTP 401)."""


class ManxuePermissionError(ManxueError):
    """The service forbids this request with this API key (HTTP 403)."""


class ManxueRedirectError(ManxueError):
    """The service responded with a redirect. It is not followed, because the API key would travel with it."""


class ManxueRefusedError(ManxueError):
    """The service does not know the task, or refused the request (404, other 4xx, an error code in a 200)."""


class ManxueResultMissingError(ManxueError):
    """The task is completed, but the response has no URL of the video."""


class ManxueMediaTypeError(ManxueError, AirflowFailException):
    """The id belongs to an object that is not a video."""


class ManxueFailedError(ManxueError, AirflowFailException):
    """The service has ended its work on a video or an asset without a result. The same request would fail again."""


class ManxueVideoFailedError(ManxueFailedError):
    """The service could not generate the video."""


class ManxueAssetFailedError(ManxueFailedError):
    """The service did not accept a file as an asset, or its review of the asset failed."""


class ManxueTimeoutError(ManxueError, AirflowSensorTimeout):
    """The video, or the review of an asset, was not ready within the task's ``timeout``."""


class ManxueNotCompletedError(ManxueError):
    """The video is not completed, so that there is no file to save."""


class ManxueDownloadError(ManxueError):
    """The video could not be downloaded completely."""


class ManxueUnverifiedVideoError(ManxueDownloadError):
    """All announced bytes were received, but they may not be a complete video. They were saved under another name."""


class ManxueUnsafeUrlError(ManxueDownloadError):
    """The URL of a video leads to an address that downloads must not reach."""


class ManxueStorageError(ManxueError):
    """The video cannot be stored."""


class ManxueExistsError(ManxueStorageError, AirflowFailException):
    """The destination exists already, and ``if_exists`` is ``fail``."""


class ManxueOrderNotAcceptedError(ManxueTransientError):
    """
    An order did not reach the service, or was not accepted. It can be sent again without being paid twice.

    An upload of assets raises the same errors of an order, since it is treated like one.
    """

    def raise_cause(self) -> None:
        """Raise the exception that ended the attempt, if the service was not the cause; ``execution_timeout`` for example."""
        if self.__cause__ is not None:
            raise self.__cause__


class ManxueOrderTimeoutError(ManxueOrderNotAcceptedError):
    """No order was accepted within ``order_timeout``. A retry sends the order again."""


class ManxueOrderError(ManxueError, AirflowFailException):
    """An order that is not sent again automatically, since it may be paid twice."""


class ManxueOrderRejectedError(ManxueOrderError):
    """The service rejected an order. It would reject the same order again."""


class ManxueOrderUnknownError(ManxueOrderError):
    """The outcome of an order is unknown. The service may have accepted it."""


class ManxueOrderMismatchError(ManxueOrderError):
    """The order that is bound to the task instance differs from the one that the task would send now."""


class ManxueRunLimitError(ManxueError, AirflowFailException):
    """An order would exceed ``max_seconds_per_run``. It was not sent."""


class ManxueDoctorError(ManxueError):
    """The doctor has found errors in the installation. The text has each with its remedy."""
