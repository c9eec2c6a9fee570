"""TLS and proxy settings, which both clients share."""

from __future__ import annotations

import errno
import os
import re
import ssl
import subprocess
import sys

import pytest
import trustme
from requests.utils import get_environ_proxies, select_proxy

from airflow_provider_manxue import __version__
from airflow_provider_manxue._client import network
from airflow_provider_manxue._client.network import ca_path, proxy_for, session_key, ssl_context, user_agent
from airflow_provider_manxue._core.connection import parse_connection
from airflow_provider_manxue.exceptions import ManxueConfigurationError, ManxueTransientError


def settings_of(host="https://service.example.com", **extra):
    return parse_connection("c", host=host, password="key", extra={"allow_http": True, **extra})


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}:
            monkeypatch.delenv(name)
    network._check_authorities.cache_clear()
    return monkeypatch


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


class TestProxy:
    @pytest.mark.parametrize(
        "host", ["https://service.example.com", "http://service.example.com:8080", "https://10.1.2.3"]
    )
    @pytest.mark.parametrize(
        "variables",
        [
            {},
            {"HTTPS_PROXY": "http://one:3128"},
            {"HTTP_PROXY": "one:3128"},
            {"ALL_PROXY": "http://one:3128"},
            {"ALL_PROXY": "http://one:3128", "HTTPS_PROXY": "http://two:3128"},
            {"HTTPS_PROXY": "http://one:3128", "https_proxy": "http://two:3128"},
            {"HTTPS_PROXY": "http://one:3128", "https_proxy": ""},
        ],
    )
    @pytest.mark.parametrize(
        "no_proxy",
        [
            None,
            "*",
            "example.com",
            ".example.com",
            "service.example.com",
            "service.example.com:8080",
            "localhost, example.com",
            "10.0.0.0/8",
            "10.1.2.3",
            "192.168.0.0/16",
            "10.1.2",
            ",",
        ],
    )
    def test_environment_is_interpreted_as_by_requests(self, environment, host, variables, no_proxy):
        for name, value in variables.items():
            environment.setenv(name, value)
        if no_proxy is not None:
            environment.setenv("NO_PROXY", no_proxy)
        settings = settings_of(host)
        theirs = select_proxy(settings.base_url, get_environ_proxies(settings.base_url))
        theirs = f"http://{theirs}" if theirs and "://" not in theirs else theirs
        assert proxy_for(settings) == theirs

    def test_no_proxy_matches_whole_labels_only(self, environment):
        """As in newer releases of requests. In older ones ``ample.com`` also matches ``example.com``."""
        environment.setenv("ALL_PROXY", "http://one:3128")
        environment.setenv("NO_PROXY", "ample.com")
        assert proxy_for(settings_of("https://service.example.com")) == "http://one:3128"

    def test_connection_overrides_the_environment(self, environment):
        environment.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
        environment.setenv("NO_PROXY", "*")
        assert proxy_for(settings_of(proxy="http://mine:3128")) == "http://mine:3128"

    def test_service_on_loopback_needs_no_proxy(self, environment):
        environment.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
        assert proxy_for(settings_of("http://127.0.0.1:8080")) is None

    def test_no_proxy_host_ignores_unsupported_proxy(self, environment):
        """A proxy that no request uses must not end a wait."""
        environment.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
        environment.setenv("NO_PROXY", ".example.com")
        assert proxy_for(settings_of()) is None

    def test_no_proxy_matches_ipv6_networks(self, environment):
        environment.setenv("HTTPS_PROXY", "http://one:3128")
        environment.setenv("NO_PROXY", "2001:db8::/32")
        assert proxy_for(settings_of("https://[2001:db8::1]")) is None
        assert proxy_for(settings_of("https://[2001:db9::1]")) == "http://one:3128"

    @pytest.mark.parametrize(
        ("proxy", "problem"),
        [
            ("socks5://u:hidden@h:1", "socks5:// proxies are not supported"),
            ("HTTPS://u:hidden@h:1", "https:// proxies are not supported"),
            ("u:hidden://x@h", "it is not the URL of an HTTP proxy"),
            ("http://u:hidden@h:port", "it is not the URL of an HTTP proxy"),
        ],
    )
    def test_error_names_the_variable_without_its_value(self, environment, proxy, problem):
        """The value may hold a password."""
        environment.setenv("All_Proxy", proxy)
        with pytest.raises(ManxueConfigurationError) as raised:
            proxy_for(settings_of())
        assert str(raised.value).startswith(f"Environment variable 'All_Proxy': {problem}. ")
        assert "hidden" not in str(raised.value)


class TestCaBundle:
    def test_ca_bundle_default_is_certifi(self):
        assert ca_path(settings_of()).endswith("cacert.pem")

    def test_connection_overrides_the_environment(self, environment, bundle):
        environment.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
        assert ca_path(settings_of(ca_bundle=str(bundle))) == str(bundle)

    def test_ca_bundle_is_not_loaded_over_plain_http(self, environment):
        """A broken bundle that no request needs must not end a wait."""
        environment.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
        settings = settings_of("http://service.example.com")
        assert ca_path(settings) is None
        assert ssl_context(settings) is True
        assert session_key(settings) == ("http",)

    def test_ca_bundle_is_not_loaded_without_verification(self, environment):
        """A broken bundle that no request needs must not end a wait."""
        environment.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
        settings = settings_of(verify=False)
        assert ca_path(settings) is None
        assert ssl_context(settings) is False

    def test_ca_bundle_may_be_a_folder(self, environment, tmp_path):
        """As in requests, which reads a folder of certificates, named by their hashes."""
        environment.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
        assert ca_path(settings_of()) == str(tmp_path)
        assert ssl_context(settings_of()).verify_mode is ssl.CERT_REQUIRED

    def test_replaced_file_is_checked_again(self, bundle):
        """A triggerer runs for weeks, and the bundle is replaced in the meantime."""
        settings = settings_of(ca_bundle=str(bundle))
        good = bundle.read_bytes()
        assert ca_path(settings) == str(bundle)
        bundle.write_text("")
        for check in (ca_path, ssl_context):
            with pytest.raises(ManxueConfigurationError, match="holds no certificate"):
                check(settings)
        bundle.write_bytes(good)
        assert ca_path(settings) == str(bundle)

    def test_replaced_file_changes_the_session_key(self, bundle):
        """A session trusts the certificates that it was opened with, so the new file needs a new session."""
        settings = settings_of(ca_bundle=str(bundle))
        before = session_key(settings)
        assert session_key(settings) == before
        trustme.CA().cert_pem.write_to_path(bundle)
        os.utime(bundle, ns=(1, 1))
        assert session_key(settings) != before

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO])
    def test_lack_of_file_descriptors_is_transient(self, monkeypatch, bundle, number):
        """It passes, while a configuration error would end all waits of the connection."""

        def no_descriptor(path, mode):
            raise OSError(number, "")

        monkeypatch.setattr("pathlib.Path.open", no_descriptor)
        for check in (ca_path, ssl_context):
            with pytest.raises(ManxueTransientError, match=re.escape(os.strerror(number).lower())):
                check(settings_of(ca_bundle=str(bundle)))

    def test_unreadable_file_is_a_configuration_error(self, monkeypatch, bundle):
        def forbidden(path, mode):
            raise PermissionError(errno.EACCES, "")

        monkeypatch.setattr("pathlib.Path.open", forbidden)
        with pytest.raises(ManxueConfigurationError, match="permission denied"):
            ca_path(settings_of(ca_bundle=str(bundle)))


def test_requests_is_not_imported():
    """Its modules import each other in a circle: two threads that import two of them at once may get half a module."""
    code = """
import sys
import aiohttp
import airflow_provider_manxue._client.async_client
from airflow_provider_manxue._client.network import ca_path, proxy_for, ssl_context
from airflow_provider_manxue._core.connection import parse_connection

def refuse(name, path=None, target=None):
    if name.split(".")[0] in {"requests", "urllib3"}:
        raise ImportError(name)

for name in [name for name in sys.modules if name.split(".")[0] in {"requests", "urllib3"}]:
    del sys.modules[name]
sys.meta_path.insert(0, type("Refusal", (), {"find_spec": staticmethod(refuse)}))
settings = parse_connection("c", host="https://service.example.com", password="k")
print(proxy_for(settings), ca_path(settings)[-10:], ssl_context(settings).verify_mode.name)
"""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout == "None cacert.pem CERT_REQUIRED\n", done.stderr


def test_user_agent_names_package_and_airflow():
    assert user_agent().startswith(f"airflow-provider-manxue/{__version__} apache-airflow/")
