"""
The errors of this package.

Each derives from :class:`ManxueError`, which is an ``AirflowException``, so that Airflow's own handling
(retries, callbacks, ``soft_fail``) applies. Those that a retry cannot cure are ``AirflowFailException`` as
well, and a timeout is an ``AirflowSensorTimeout``: Airflow retries neither.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout


class ManxueError(AirflowException):
    """Base of every error of this package."""

    since: float | None = None
    """When this trouble began, in seconds since the epoch, where it is older than this error; else None."""


class ManxueConfigurationError(ManxueError):
    """A field of the Airflow connection, or an environment variable, cannot be used; nothing was sent."""


class ManxueConnectionNotFoundError(ManxueConfigurationError):
    """Airflow does not know the connection; Airflow's clients report an outage of a secrets backend in the same way."""


class ManxueInternalError(ManxueError):
    """An exception that is not of this package ended a poll; the log has its type and its frames."""


class ManxueInputError(ManxueError, AirflowFailException):
    """An argument cannot be used; nothing was sent."""


class ManxueTransientError(ManxueError):
    """
    The service could not be reached or gave no usable answer; asking again may help.

    :param message: what happened.
    :param retry_after: how long the service asked us to stay away, in seconds, if it did.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ManxueRateLimitError(ManxueTransientError):
    """The service answered 429: too many requests."""


class ManxueAuthenticationError(ManxueError):
    """The service refused the API key (401)."""


class ManxuePermissionError(ManxueError):
    """The service forbids this request with this API key (403)."""


class ManxueRedirectError(ManxueError):
    """The service answered with a redirect, which is never followed: the API key would travel with it."""


class ManxueRefusedError(ManxueError):
    """The service does not know the task, or refused the request with an error of its own (404, other 4xx)."""


class ManxueResultMissingError(ManxueError):
    """The task is completed, but the answer holds no URL of a video."""


class ManxueMediaTypeError(ManxueError, AirflowFailException):
    """The id belongs to something other than a video."""


class ManxueVideoFailedError(ManxueError, AirflowFailException):
    """The service could not generate the video."""


class ManxueTimeoutError(ManxueError, AirflowSensorTimeout):
    """The video was not ready within the sensor's ``timeout``."""


class ManxueNotCompletedError(ManxueError):
    """The video is not completed yet, so there is nothing to save."""


class ManxueDownloadError(ManxueError):
    """The video could not be fetched completely."""


class ManxueUnverifiedVideoError(ManxueDownloadError):
    """All announced bytes were received, but they may not be a whole video; they were saved under another name."""


class ManxueUnsafeUrlError(ManxueDownloadError):
    """The URL of a video leads to where a download must not go."""


class ManxueStorageError(ManxueError):
    """The video was, or would be, fetched, but cannot be stored."""


class ManxueExistsError(ManxueStorageError, AirflowFailException):
    """There is an object of that name already, and ``if_exists`` is ``fail``."""


class ManxueOrderNotAcceptedError(ManxueTransientError):
    """An order did not reach the service, or was turned away: it can be sent again without being paid twice."""

    def raise_cause(self) -> None:
        """Raise what ended the attempt, if that is no trouble with the service, such as Airflow's ``execution_timeout``."""
        if self.__cause__ is not None:
            raise self.__cause__


class ManxueOrderTimeoutError(ManxueOrderNotAcceptedError):
    """No order was accepted within ``order_timeout``: nothing was ordered, and a retry may order."""


class ManxueOrderError(ManxueError, AirflowFailException):
    """An order that must not be sent again without a person's decision, since it may be paid twice."""


class ManxueOrderRejectedError(ManxueOrderError):
    """The service rejected an order: nothing was ordered, and the same order would be rejected again."""


class ManxueOrderUnknownError(ManxueOrderError):
    """An order was sent, and it is unknown whether the service accepted it."""


class ManxueOrderMismatchError(ManxueOrderError):
    """The order that is bound to the task instance is another one than the task would send now."""
