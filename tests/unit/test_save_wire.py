"""
Requests to media hosts: exact URL, no credentials, allowed addresses, proxies and certificates.

The rules and their reasons are in docs/saving-design.md.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

from airflow_provider_manxue._client import dialer
from airflow_provider_manxue._client.downloader import Deadline
from airflow_provider_manxue._client.media_client import MediaClient
from airflow_provider_manxue._core.connection import parse_connection
from airflow_provider_manxue._core.media import BrokenTransferError
from airflow_provider_manxue._core.media_urls import AddressPolicy
from airflow_provider_manxue.exceptions import (
    ManxueConfigurationError,
    ManxueDownloadError,
    ManxueUnsafeUrlError,
)
from airflow_provider_manxue.testing import Emulator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nvideo"


class Host:
    """A server with scripted responses that records requests, and is a proxy for ``CONNECT``."""

    def __init__(self):
        self.responses = [OK]
        self.requests = []
        self.delay = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._respond, args=(client,), daemon=True).start()

    def _respond(self, client):
        with client, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(65536)
            self.requests.append(request.decode("ascii"))
            if request.startswith(b"CONNECT"):
                self._tunnel(client, int(request.split()[1].rpartition(b":")[2]))
                return
            response = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
            if isinstance(response, bytes):
                response = (
                    [response] if not self.delay else [response[i : i + 1] for i in range(len(response))]
                )
            for piece in response:
                client.sendall(piece)
                time.sleep(self.delay)

    def _tunnel(self, client, port):
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port)) as server:
            thread = threading.Thread(target=pump, args=(server, client), daemon=True)
            thread.start()
            pump(client, server)
            thread.join(5)

    def close(self):
        self._listener.close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


def pump(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def host():
    host = Host()
    yield host
    host.close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def names(monkeypatch):
    """Addresses by host name, for ``getaddrinfo``. Literal addresses resolve to themselves."""
    known = {"service.example": ["93.184.216.34"]}
    real = socket.getaddrinfo

    def look_up(name, port, *args, **kwargs):
        if name not in known:
            return real(name, port, *args, **kwargs)
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port),
            )
            for address in known[name]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def wire(base_url="https://service.example", *, allow=True, timeout=5.0, **extra):
    settings = parse_connection(
        "test", host=base_url, password="the-key", extra={"request_timeout": 2, **extra}
    )
    policy = AddressPolicy.parse(allow, urlsplit(base_url).hostname)
    return MediaClient(settings, policy=policy, deadline=Deadline(timeout))


def fetch(one, url, **headers):
    with one.get(url, headers) as response:
        return response.status, response.read()


def request_line(request):
    return request.partition("\r\n")[0]


def header(request, name):
    return [line.partition(": ")[2] for line in request.split("\r\n") if line.startswith(f"{name}: ")]


class TestRequest:
    @pytest.mark.parametrize(
        "target",
        [
            "/a%2fb%2F.mp4?sig=%3d%3D+%20~&e=",
            "/a/../b//./c;v=1?x=[1]{2}|^`'\"<>\\",
            "/?",
            "/%zz?%",
            "/a?u=http://b/c",
        ],
    )
    def test_request_has_the_bytes_of_the_url(self, host, target):
        assert fetch(wire(), host.url + target) == (200, b"video")
        assert request_line(host.requests[0]) == f"GET {target} HTTP/1.1"

    def test_request_has_only_the_needed_headers(self, host, monkeypatch, tmp_path):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        fetch(wire(), f"{host.url}/v", Range="bytes=5-")

        names = [line.partition(":")[0] for line in host.requests[0].split("\r\n")[1:] if line]
        assert sorted(names) == ["Accept", "Accept-Encoding", "Connection", "Host", "Range", "User-Agent"]
        assert header(host.requests[0], "Accept-Encoding") == ["identity"]
        assert header(host.requests[0], "Host") == [f"127.0.0.1:{host.port}"]
        assert "the-key" not in host.requests[0]

    def test_refused_connection_is_broken(self):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            with pytest.raises(BrokenTransferError, match=r"127\.0\.0\.1: connection refused"):
                fetch(wire(), f"http://127.0.0.1:{closed.getsockname()[1]}/v")

    @pytest.mark.parametrize(
        "nonsense",
        [
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
            b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 " + b"O" * 70_000 + b"\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: /" + b"a" * 70_000 + b"\r\n\r\n",
        ],
        ids=["no HTTP", "many headers", "long header", "long status", "long location"],
    )
    def test_invalid_response_is_broken(self, host, nonsense):
        host.responses = [nonsense]
        with pytest.raises(BrokenTransferError):
            fetch(wire(), f"{host.url}/v")

    def test_impossible_host_name_is_broken(self):
        with pytest.raises(BrokenTransferError):
            fetch(wire(), f"http://{'a' * 70}.example/v")

    def test_slow_headers_end_at_the_deadline(self, host):
        host.delay = 0.05
        host.responses = [b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 90]
        began = time.monotonic()
        with pytest.raises(BrokenTransferError):
            fetch(wire(timeout=0.3), f"{host.url}/v")
        assert time.monotonic() - began < 20

    def test_endless_interim_responses_end_at_the_deadline(self, host):
        host.responses = [itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)]
        with pytest.raises(BrokenTransferError):
            fetch(wire(timeout=0.3), f"{host.url}/v")

    def test_timeout_of_years_is_accepted(self, host):
        assert fetch(wire(timeout=1e12), f"{host.url}/v") == (200, b"video")

    def test_no_request_after_the_deadline(self, host):
        with pytest.raises(ManxueDownloadError, match="timeout=0 s"):
            fetch(wire(timeout=0), f"{host.url}/v")
        assert host.requests == []


class TestRedirect:
    def redirect(self, location, status=302):
        return f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_redirect_is_followed_byte_for_byte(self, host, status):
        host.responses = [self.redirect(f"{host.url}/b%2fc?s=%3d", status), self.redirect("../d"), OK]

        assert fetch(wire(), f"{host.url}/a") == (200, b"video")
        assert [request_line(request) for request in host.requests] == [
            "GET /a HTTP/1.1",
            "GET /b%2fc?s=%3d HTTP/1.1",
            "GET /d HTTP/1.1",
        ]

    def test_redirects_are_limited_to_five(self, host):
        host.responses = [self.redirect("/again")]
        with pytest.raises(ManxueUnsafeUrlError, match=r"more than 5 redirects\. Report the id"):
            fetch(wire(), f"{host.url}/a")
        assert len(host.requests) == 6

    def test_redirect_to_private_address_is_refused(self, host, names, monkeypatch):
        names["media.example"] = ["93.184.216.35"]
        inner = Host()
        dial = socket.create_connection
        monkeypatch.setattr(
            socket, "create_connection", lambda address, timeout: dial(("127.0.0.1", host.port), timeout)
        )
        host.responses = [self.redirect(f"http://127.0.0.1:{inner.port}/metadata")]
        with pytest.raises(ManxueUnsafeUrlError, match="is not public"):
            fetch(wire(allow=False), "http://media.example/a")
        assert inner.requests == []
        inner.close()


class TestAddress:
    """
    Addresses of a media host. A private one is refused, since a video's URL comes from the service, which could otherwise
    make a worker request internal services (docs/threat-model.md, "The service, or who has taken it over").
    """

    @pytest.fixture
    def dialled(self, monkeypatch):
        """Addresses that a connection was attempted to. Each attempt fails."""
        dialled = []

        def refuse(address, timeout):
            dialled.append(address)
            raise ConnectionRefusedError

        monkeypatch.setattr(socket, "create_connection", refuse)
        return dialled

    @pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1"])
    def test_private_address_is_refused(self, names, dialled, address):
        names["media.example"] = [address]
        with pytest.raises(ManxueUnsafeUrlError, match="allow_private_addresses="):
            fetch(wire(allow=False), "https://media.example/v?secret")
        assert dialled == []

    def test_private_address_is_allowed_by_true(self, names, dialled):
        names["media.example"] = ["10.0.0.1"]
        with pytest.raises(BrokenTransferError):
            fetch(wire(allow=True), "https://media.example/v")
        assert dialled == [("10.0.0.1", 443)]

    @pytest.mark.parametrize(
        ("base_url", "address"),
        [
            ("http://127.0.0.1:1", "127.0.0.1"),
            ("https://10.9.8.7", "10.9.8.7"),
            ("http://localhost:1", "::1"),
            ("http://localhost:1", "127.0.0.1"),
        ],
    )
    def test_address_of_the_connection_is_allowed(self, names, dialled, base_url, address):
        names["media.example"] = [address]
        with pytest.raises(BrokenTransferError):
            fetch(wire(base_url, allow=False), "https://media.example/v")
        assert dialled == [(address, 443)]

        for other in ("10.0.0.1", "169.254.169.254", "127.0.0.2"):
            names["media.example"] = [other]
            with pytest.raises(ManxueUnsafeUrlError):
                fetch(wire(base_url, allow=False), "https://media.example/v")
        assert dialled == [(address, 443)]

    @pytest.mark.parametrize(
        "allow",
        [["media.example"], ["MEDIA.example."], ["10.0.0.0/8"], ["10.0.0.1"], ("x.example", "10.0.0.1")],
    )
    def test_private_address_is_allowed_by_a_list(self, names, dialled, allow):
        names["media.example"] = ["10.0.0.1"]
        with pytest.raises(BrokenTransferError):
            fetch(wire(allow=allow), "https://media.example/v")
        assert dialled == [("10.0.0.1", 443)]

        names["evil.example"] = ["192.168.0.1"]
        with pytest.raises(ManxueUnsafeUrlError):
            fetch(wire(allow=allow), "https://evil.example/v")

    def test_many_addresses_share_one_timeout(self, names, waited):
        """A silent host with fifteen addresses once took fifteen timeouts."""
        names["media.example"] = [f"93.184.216.{number}" for number in range(1, 16)]
        with pytest.raises(BrokenTransferError):
            fetch(wire(timeout=60), "https://media.example/v")
        assert len(waited) == dialer.MAX_ADDRESSES
        assert sum(waited) == pytest.approx(2)

    def test_slow_dns_lookup_times_out(self, monkeypatch):
        never = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: never.wait(30))
        with pytest.raises(BrokenTransferError, match="no response"):
            fetch(wire(request_timeout=0.2), "https://media.example/v")
        never.set()

    @pytest.mark.parametrize("addresses", [["10.0.0.1"], ["93.184.216.34", "10.0.0.1"]])
    def test_dns_of_the_service_allows_no_private_address(self, names, dialled, addresses):
        """The service may control that name server and point its own name to any address."""
        names["service.example"] = addresses
        names["media.example"] = ["10.0.0.1"]
        with pytest.raises(ManxueUnsafeUrlError):
            fetch(wire(allow=False), "https://media.example/v")
        assert dialled == []

    def test_only_public_addresses_are_used(self, names, dialled):
        names["media.example"] = ["10.0.0.1", "93.184.216.35", "2606:2800:220:1::1"]
        with pytest.raises(BrokenTransferError):
            fetch(wire(allow=False), "https://media.example/v")
        assert dialled == [("93.184.216.35", 443), ("2606:2800:220:1::1", 443)]

    def test_address_is_looked_up_once(self, dialled, monkeypatch):
        """A name server that changes its response after the check has no effect (DNS rebinding)."""
        results = [["93.184.216.35"], ["127.0.0.1"]]
        monkeypatch.setattr(dialer, "_look_up", lambda host, port, timeout: results.pop(0))
        with pytest.raises(BrokenTransferError):
            fetch(wire(allow=False), "http://media.example/v")
        assert dialled == [("93.184.216.35", 80)]

    def test_name_without_addresses_is_refused(self, names):
        names["media.example"] = []
        with pytest.raises(ManxueUnsafeUrlError):
            fetch(wire(allow=False), "http://media.example/v")


class TestProxy:
    def test_proxy_gets_the_whole_url(self, host):
        fetch(wire(proxy=f"http://me:p%40ss@127.0.0.1:{host.port}"), "http://media.example:81/a%2f?s=%3d")

        assert request_line(host.requests[0]) == "GET http://media.example:81/a%2f?s=%3d HTTP/1.1"
        assert header(host.requests[0], "Host") == ["media.example:81"]
        assert header(host.requests[0], "Proxy-Authorization") == ["Basic bWU6cEBzcw=="]

    @pytest.mark.parametrize("scheme", ["", "http://"])
    def test_proxy_of_the_environment_is_used(self, host, monkeypatch, scheme):
        monkeypatch.setenv("http_proxy", f"{scheme}127.0.0.1:{host.port}")
        fetch(wire(), "http://media.example/a")

        assert request_line(host.requests[0]) == "GET http://media.example/a HTTP/1.1"
        assert header(host.requests[0], "Proxy-Authorization") == []

    def test_endless_connect_response_times_out(self, dripping_proxy):
        with pytest.raises(BrokenTransferError, match="timed out"):
            fetch(wire(proxy=dripping_proxy, request_timeout=0.3), "https://media.example/a")

    def test_no_proxy_of_the_environment_is_respected(self, host, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")

        assert fetch(wire(), f"{host.url}/a") == (200, b"video")

    def test_error_names_an_unsupported_proxy(self, monkeypatch):
        monkeypatch.setenv("http_proxy", "socks5://me:secret@127.0.0.1:1080")
        with pytest.raises(ManxueConfigurationError, match="'socks5' proxy") as caught:
            fetch(wire(), "http://media.example/a")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize(
        "name",
        [
            "127.0.0.1", "127.1", "localhost", "localhost.", "[::1]", "[::ffff:7f00:1]", "0x7f000001", "0177.0.0.1",
            "2130706433", "１２７.0.0.1", "127。0。0。1", "ⓛocalhost",
        ],
    )  # fmt: skip
    def test_proxy_gets_no_private_literal_address(self, host, name, scheme):
        with pytest.raises(ManxueUnsafeUrlError, match="not public"):
            fetch(wire(proxy=host.url, allow=False), f"{scheme}://{name}/a")
        assert host.requests == []

    def test_proxy_gets_the_host_in_ascii(self, host):
        fetch(wire(proxy=host.url), "http://bücher.example/a")

        assert request_line(host.requests[0]) == "GET http://xn--bcher-kva.example/a HTTP/1.1"

    def test_proxy_resolves_host_names(self, host, names):
        names["media.example"] = ["127.0.0.1"]
        fetch(wire(proxy=host.url, allow=False), "http://media.example/a")
        assert len(host.requests) == 1

    def test_proxy_tunnels_tls(self, host):
        with Emulator(tls=True) as emulator:
            task_id = emulator.add_task("completed")
            one = wire(proxy=f"http://me:pass@127.0.0.1:{host.port}", ca_bundle=emulator.ca_bundle)
            status, body = fetch(one, emulator.video_url(task_id))

        assert (status, body[4:8]) == (200, b"ftyp")
        assert request_line(host.requests[0]).startswith("CONNECT 127.0.0.1:")
        assert header(host.requests[0], "Proxy-Authorization") == ["Basic bWU6cGFzcw=="]


class TestCertificate:
    @pytest.fixture
    def emulator(self):
        with Emulator(tls=True) as emulator:
            yield emulator

    @pytest.fixture
    def url(self, emulator):
        return emulator.video_url(emulator.add_task("completed"))

    def test_certificate_is_verified(self, url):
        with pytest.raises(BrokenTransferError, match="certificate was not accepted"):
            fetch(wire(), url)

    def test_ca_bundle_of_the_connection_is_used(self, emulator, url):
        assert fetch(wire(ca_bundle=emulator.ca_bundle), url)[0] == 200

    def test_ca_bundle_of_the_environment_is_used(self, emulator, url, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", emulator.ca_bundle)
        assert fetch(wire(), url)[0] == 200

    def test_ca_bundle_can_be_a_folder(self, url, monkeypatch, tmp_path):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
        with pytest.raises(BrokenTransferError, match="certificate was not accepted"):
            fetch(wire(), url)

    def test_verification_can_be_disabled(self, url):
        assert fetch(wire(verify=False), url)[0] == 200
