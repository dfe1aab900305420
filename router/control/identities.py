"""Certificates of one installation, as files of its data directory: the authority, the router, the local agent."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from isolation.vault.durable import create_file, make_folder, replace_file
from partywall.clock import Clock
from partywall.errors import NotReady, Reason
from router.control.data_dir import DataDir
from router.control.pki import Authority, Identity, check_pem, time_left

LOCAL_NODE = "local"
# The node that shares the router's machine renews as every agent does; a long first life lets an installation that
# stood still for a while start again without a hand.
LOCAL_AGENT_LIFE = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)


def create_identities(data: DataDir, hosts: tuple[str, ...], clock: Clock) -> None:
    """A new authority, and the router's and the local agent's certificates signed by it.

    Raises:
        InvalidInput: A host is not a name or an address; nothing is written then.
        OSError: The disk is full or failed.
    """
    now = clock.now()
    authority = Authority.create(now)
    router = authority.router(hosts, now)
    agent = authority.agent(LOCAL_NODE, now, LOCAL_AGENT_LIFE)
    for folder in (data.ca, data.node):
        make_folder(folder)
    _save(authority.identity, data.ca / "ca.pem", data.ca / "ca.key")
    _save(router, data.ca / "router.pem", data.ca / "router.key")
    create_file(data.ca / "hosts", "".join(f"{host}\n" for host in hosts).encode())
    _save(agent, data.node / "agent.pem", data.node / "agent.key")
    create_file(data.node / "ca.pem", authority.ca_pem)


def load_authority(data: DataDir) -> Authority:
    """The installation's certificate authority.

    Raises:
        NotReady: Its files are missing.
    """
    return Authority(_load(data.ca / "ca.pem", data.ca / "ca.key"))


def router_identity(data: DataDir, clock: Clock, hosts: Iterable[str] = (), *, renew: bool = True) -> Identity:
    """The router's certificate for the link port; made anew, for `hosts` too, a month before it ends.

    `renew` False reads it only: of several processes one renews.
    """
    identity = _load(data.ca / "router.pem", data.ca / "router.key")
    if not renew or time_left(identity.certificate_pem, clock.now()) > RENEW_BEFORE:
        return identity
    identity = load_authority(data).router((*_read_hosts(data), *hosts), clock.now())
    _save(identity, data.ca / "router.pem", data.ca / "router.key")
    return identity


def refresh_local_agent(data: DataDir, clock: Clock) -> None:
    """Renews the local agent's certificate if it ended, so that `up` starts after any pause. Before its agent runs.

    One that is damaged is made anew too: the authority that signs it is here.
    """
    certificate = data.node / "agent.pem"
    if not certificate.exists() or _lives(certificate, data.node / "agent.key", clock):
        return
    identity = load_authority(data).agent(LOCAL_NODE, clock.now(), LOCAL_AGENT_LIFE)
    _save(identity, certificate, data.node / "agent.key")


def _lives(certificate: Path, key: Path, clock: Clock) -> bool:
    try:
        identity = Identity(certificate.read_bytes(), key.read_bytes())
        check_pem(identity)
    except (FileNotFoundError, ValueError):
        return False
    return time_left(identity.certificate_pem, clock.now()) > timedelta(0)


def _read_hosts(data: DataDir) -> tuple[str, ...]:
    path = data.ca / "hosts"
    return tuple(path.read_text(encoding="ascii").split()) if path.exists() else ()


def _load(certificate: Path, key: Path) -> Identity:
    try:
        identity = Identity(certificate.read_bytes(), key.read_bytes())
        check_pem(identity)
        return identity
    except FileNotFoundError as failure:
        raise NotReady(
            f"{failure.filename} is missing; restore it, or make a new data directory", reason=Reason.WRONG_STATE
        ) from failure
    except OSError as failure:
        raise NotReady(f"{failure.filename} cannot be read ({failure.strerror}); mend its permissions") from failure
    except ValueError as failure:
        raise NotReady(f"{certificate} or {key.name} beside it is damaged; restore both from their backup") from failure


def _save(identity: Identity, certificate: Path, key: Path) -> None:
    replace_file(key, identity.key_pem)
    replace_file(certificate, identity.certificate_pem)
