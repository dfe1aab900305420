"""`partywall init`: the data directory with its keys, its certificate authority and an empty state.

The admin key is written last: an init that broke off leaves nothing that looks initialised.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from isolation.vault.durable import FOLDER_MODE, create_file, make_folder, readable_by_others, replace_file
from isolation.vault.keyfile import create_root
from partywall.clock import Clock, SystemClock
from partywall.errors import AlreadyExists, InvalidInput, NotReady, Reason, Unavailable
from router.control.pki import Authority, Identity, check_pem, time_left
from router.control.rpc import ADMIN_KEY_PREFIX, admin_digest
from router.control.store import SqlStore

LOCAL_NODE = "local"
# The node that shares the router's machine renews as every agent does; a long first life lets an installation that
# stood still for a while start again without a hand.
LOCAL_AGENT_LIFE = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)
MIN_ADMIN_KEY_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class DataDir:
    """Where things lie under one data directory."""

    root: Path

    @property
    def admin_key(self) -> Path:
        return self.root / "admin.key"

    @property
    def root_key(self) -> Path:
        return self.root / "root.key"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def ca(self) -> Path:
        return self.root / "ca"

    @property
    def state(self) -> Path:
        return self.root / "state.db"

    @property
    def audit(self) -> Path:
        return self.root / "audit.log"

    @property
    def node(self) -> Path:
        return self.root / "node"


def initialise(data_dir: Path, hosts: Iterable[str] = (), *, clock: Clock | None = None) -> None:
    """Makes a data directory. Blocks for about half a second.

    Args:
        hosts: Names or addresses, beside the loopback ones, under which agents reach the router.

    Raises:
        AlreadyExists: There is something in the directory.
        InvalidInput: A host is not a name or an address, or the directory cannot be made there.
        Unavailable: The disk is full or failed.
    """
    data = DataDir(data_dir.absolute())
    try:
        data.root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        occupied = any(data.root.iterdir())
    except OSError as failure:
        raise InvalidInput(
            f"data_dir {str(data_dir)!r} cannot be made: {failure.strerror}; choose a directory you may write to",
            fields={"field": "data_dir", "path": str(data_dir)},
        ) from failure
    if occupied:
        raise _occupied(data, data_dir)
    try:
        data.root.chmod(FOLDER_MODE)
        _fill(data, tuple(hosts), clock or SystemClock())
    except BaseException as failure:
        _clear(data.root)
        if not isinstance(failure, OSError):
            raise
        raise Unavailable(
            f"data_dir {str(data_dir)!r} cannot be written: {failure.strerror}; free space and try again",
            reason=Reason.STORAGE_FULL,
            fields={"field": "data_dir"},
        ) from failure


def read_admin_digest(data: DataDir) -> bytes:
    """What the admin port compares credentials with.

    Raises:
        NotReady: There is no admin key, others may read it, or the file holds something else: an empty one would
            let everybody in.
    """
    try:
        mode = stat.S_IMODE(data.admin_key.stat().st_mode)
        key = data.admin_key.read_text(encoding="ascii").strip()
    except FileNotFoundError as failure:
        raise NotReady(
            f"{data.admin_key} is missing: `partywall init --data-dir {data.root}` makes a data directory"
        ) from failure
    except (OSError, UnicodeDecodeError) as failure:
        raise NotReady(f"{data.admin_key} cannot be read ({failure}); restore it from its backup") from failure
    if not key.startswith(ADMIN_KEY_PREFIX) or len(key) < MIN_ADMIN_KEY_CHARACTERS:
        raise NotReady(
            f"{data.admin_key} does not hold an admin key ({ADMIN_KEY_PREFIX}...); restore it from its backup"
        )
    if readable_by_others(mode):
        raise NotReady(
            f"{data.admin_key} has mode {mode:04o} and is the operator's credential: run `chmod 600` on it; if "
            "somebody may have read it, put a new key there",
            reason=Reason.WRONG_STATE,
            fields={"field": "admin_key", "path": str(data.admin_key)},
        )
    return admin_digest(key)


def check_state(data: DataDir) -> None:
    """That the database is where `init` made it: an empty one in its place would make orphans of all sealed files.

    Raises:
        NotReady: It is missing or empty.
    """
    if data.state.is_file() and not data.state.stat().st_size:
        problem = "is empty"
    elif not data.state.exists():
        problem = "is missing"
    else:
        return
    raise NotReady(
        f"{data.state} {problem}: put it back from its backup (it holds tenants, models and their wrapped keys); to "
        "start anew make another data directory with `partywall init`",
        reason=Reason.WRONG_STATE,
        fields={"field": "data_dir", "path": str(data.state)},
    )


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


def _fill(data: DataDir, hosts: tuple[str, ...], clock: Clock) -> None:
    now = clock.now()
    authority = Authority.create(now)
    router = authority.router(hosts, now)
    agent = authority.agent(LOCAL_NODE, now, LOCAL_AGENT_LIFE)
    for folder in (data.keys, data.ca, data.node):
        make_folder(folder)
    create_root(data.root_key)
    _save(authority.identity, data.ca / "ca.pem", data.ca / "ca.key")
    _save(router, data.ca / "router.pem", data.ca / "router.key")
    create_file(data.ca / "hosts", "".join(f"{host}\n" for host in hosts).encode())
    _save(agent, data.node / "agent.pem", data.node / "agent.key")
    create_file(data.node / "ca.pem", authority.ca_pem)
    os.close(os.open(data.state, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    # In a thread of its own, so that a caller may have a loop running.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(_migrate(data.state))).result()
    create_file(data.admin_key, f"{ADMIN_KEY_PREFIX}{secrets.token_urlsafe(32)}\n".encode())


def _occupied(data: DataDir, data_dir: Path) -> AlreadyExists:
    if data.admin_key.exists():
        problem = f"is initialised already; start it with `partywall up --data-dir {data_dir}`, or choose another one"
    else:
        problem = "is not empty; choose another directory, or empty this one if an init broke off in it"
    return AlreadyExists(f"data_dir {str(data_dir)!r} {problem}", fields={"field": "data_dir", "path": str(data_dir)})


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


async def _migrate(path: Path) -> None:
    store = SqlStore.at(path)
    try:
        await store.open()
    finally:
        await store.close()


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
