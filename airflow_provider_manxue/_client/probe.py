"""The one request of a diagnosis: a query of a task that does not exist, which costs nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_manxue._client.network import (
    ca_path,
    no_service_response,
    proxy_for,
    unusable_address,
)
from airflow_provider_manxue._client.sync_client import (
    NO_RESPONSE,
    UNUSABLE_ADDRESS,
    exchange,
    new_session,
    parse_query_response,
    response_to_query,
)
from airflow_provider_manxue._core.bodies import parse_json
from airflow_provider_manxue._core.diagnosis import PROBE_ID, Probe
from airflow_provider_manxue._core.network_errors import Obstacle, obstacle_of
from airflow_provider_manxue._core.responses import result_url
from airflow_provider_manxue.exceptions import ManxueError, ManxueTransientError

if TYPE_CHECKING:
    from airflow_provider_manxue._client.sync_client import ServiceResponse
    from airflow_provider_manxue.models import ManxueSettings


def probe_service(settings: ManxueSettings) -> Probe:
    """
    Send the request, once, and return its outcome.

    :param settings: the connection.
    """
    url = settings.base_url
    for obstacle, prepare in ((Obstacle.TLS, ca_path), (Obstacle.PROXY, proxy_for)):
        try:
            prepare(settings)
        except ManxueError as error:
            return Probe(url, error, obstacle)
    sent_at = time.time()
    try:
        with new_session() as session:
            response = response_to_query(exchange(session, settings, "GET", result_url(url, PROBE_ID)))
    except UNUSABLE_ADDRESS:
        return Probe(url, unusable_address(settings), Obstacle.OTHER)
    except NO_RESPONSE as error:
        return Probe(url, no_service_response(settings, error), obstacle_of(error))
    except ManxueError as error:
        return Probe(url, error, Obstacle.OTHER)
    except Exception as error:  # noqa: BLE001 - no check may send the request again; the text may hold a header
        unexpected = ManxueTransientError(f"the request ended with an unexpected {type(error).__name__}")
        return Probe(url, unexpected, Obstacle.OTHER)
    return Probe(
        url,
        _error_of(response, settings),
        http_status=response.http_status,
        is_json=parse_json(response.body) is not None,
        date=response.date,
        sent_at=sent_at,
        received_at=time.time(),
    )


def _error_of(response: ServiceResponse, settings: ManxueSettings) -> ManxueError | None:
    try:
        parse_query_response(response, settings, PROBE_ID)
    except ManxueError as error:
        return error
    return None
