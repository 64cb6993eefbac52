"""HTTP connections that never print what they send, whatever `http.client` was told to."""

from __future__ import annotations

from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection


class _QuietConnection(HTTPConnection):
    debuglevel = 0  # On the class, where `http.client.HTTPConnection.debuglevel = 1` does not reach it.


class _QuietTlsConnection(HTTPSConnection):
    debuglevel = 0


class _Pool(HTTPConnectionPool):
    ConnectionCls = _QuietConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _QuietTlsConnection


class QuietAdapter(HTTPAdapter):
    """A transport adapter for `requests` whose headers appear in no debug output."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use quiet connections for what is reached directly."""
        super().init_poolmanager(*args, **kwargs)
        _make_quiet(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> ProxyManager:
        """Use quiet connections through a proxy too."""
        manager: ProxyManager = super().proxy_manager_for(*args, **kwargs)
        _make_quiet(manager)
        return manager


def _make_quiet(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
