"""What a command gets: its settings, its printer, and connections as a tenant or as the operator."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, TypeVar

from partywall.cli.output import OutputFormat, Printer
from partywall.cli.settings import Settings
from partywall.client.endpoint import Endpoint, open_endpoint
from partywall.client.flow import Caller, Flow, Method
from partywall.client.operations import Operations, check_deadline
from partywall.client.transport import Transport
from partywall.clock import SystemClock
from partywall.domain.names import check_name
from partywall.errors import Reason, Unauthenticated

T = TypeVar("T")


class Connection:
    """One server, one credential."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._transport = Transport(endpoint)
        self.operations = Operations(Caller(SystemClock(), timeout_s=timeout_s))

    def call(self, method: Method, request: Any, *, idempotent: bool = False) -> Any:
        return self.run(self.operations.caller.call(method, request, idempotent=idempotent))

    def run(self, flow: Flow[T]) -> T:
        return self._transport.run(flow)

    def close(self) -> None:
        self._transport.close()


class Session:
    """Lives for one command; closes its connections at the end."""

    def __init__(self, settings: Settings, output: OutputFormat) -> None:
        self.settings = settings
        self.printer = Printer(output, color=not settings.get("no_color"))
        self._stack = ExitStack()

    def tenant(self) -> Connection:
        """The public port, as the tenant whose key was given.

        Raises:
            Unauthenticated: No key was given.
        """
        key = self.settings.api_key()
        if key is None:
            raise Unauthenticated(
                "no API key was given",
                reason=Reason.NO_CREDENTIAL,
                fields={
                    "hint": "give --api-key-file FILE or PARTYWALL_API_KEY; operators: --tenant T with --data-dir D"
                },
            )
        return self._open(self.settings.public_address(), key, None)

    def operator(self, tenant: str | None = None) -> Connection:
        """The admin port; with `tenant`, for that tenant's models."""
        if tenant is not None:
            check_name(tenant, "tenant")
        return self._open(self.settings.admin_address(), self.settings.admin_key(), tenant)

    def models_of(self, tenant: str | None) -> Connection:
        """As the operator where a tenant is named, as the tenant itself otherwise."""
        return self.tenant() if tenant is None else self.operator(tenant)

    def close(self) -> None:
        self._stack.close()

    def _open(self, address: str, credential: str, tenant: str | None) -> Connection:
        timeout_s = self.settings.get("timeout")
        check_deadline(timeout_s, "timeout")
        endpoint = open_endpoint(
            address,
            credential=credential,
            tls_ca=self.settings.get("tls_ca"),
            tenant=tenant,
            insecure=bool(self.settings.get("insecure")),
        )
        connection = Connection(endpoint, timeout_s or 30.0)
        self._stack.callback(connection.close)
        return connection
