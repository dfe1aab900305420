"""`init`: what it makes, what it refuses, that half an init looks like none, and what a start asks of its files."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from isolation.vault.keyfile import KeyFileProvider
from partywall.clock import VirtualClock
from partywall.errors import AlreadyExists, InvalidInput, NotReady
from router.control.data_dir import DataDir, check_state, read_admin_digest
from router.control.identities import load_authority, refresh_local_agent, router_identity
from router.control.pki import time_left
from router.control.rpc import ADMIN_KEY_PREFIX, admin_digest
from router.control.setup import initialise
from router.control.store import SqlStore

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


@pytest.fixture
def data(tmp_path: Path, clock: VirtualClock) -> DataDir:
    initialise(tmp_path / "deep" / "data", ("router.example", "10.0.0.1"), clock=clock)
    return DataDir(tmp_path / "deep" / "data")


def test_everything_is_there_and_for_this_user_alone(data: DataDir) -> None:
    found = {path.relative_to(data.root).as_posix() for path in data.root.rglob("*") if path.is_file()}
    assert found >= {
        *("admin.key", "root.key", "state.db", "ca/ca.pem", "ca/ca.key", "ca/router.pem", "ca/router.key"),
        *("node/agent.pem", "node/agent.key", "node/ca.pem"),
    }
    for path in (data.root, *data.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_admin_key_has_its_form_and_digest(data: DataDir) -> None:
    key = data.admin_key.read_text().strip()
    assert key.startswith(ADMIN_KEY_PREFIX)
    assert len(key) == len(ADMIN_KEY_PREFIX) + 43
    assert read_admin_digest(data) == admin_digest(key)


async def test_the_parts_fit_together(data: DataDir) -> None:
    store = SqlStore.at(data.state)
    await store.open()
    assert (await store.load()).rev == 0
    await store.close()
    KeyFileProvider(data.root_key, data.keys).create_tenant("t1")
    authority = load_authority(data)
    assert (data.node / "ca.pem").read_bytes() == authority.ca_pem
    for path in (data.ca / "router.pem", data.node / "agent.pem"):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.ca_pem))


async def test_init_works_inside_a_running_loop(tmp_path: Path) -> None:
    initialise(tmp_path / "data")
    assert (tmp_path / "data" / "admin.key").exists()


def test_a_second_init_changes_nothing(data: DataDir) -> None:
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExists, match="initialised already"):
        initialise(data.root)
    assert {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()} == before


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(AlreadyExists, match="not empty"):
        initialise(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_taken_and_closed_to_others(tmp_path: Path) -> None:
    target = tmp_path / "empty"
    target.mkdir(mode=0o755)
    initialise(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o700


@pytest.mark.parametrize("hosts", [("not a host",), ("",), ("a/b",)])
def test_a_failed_init_leaves_an_empty_folder(tmp_path: Path, hosts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match="host"):
        initialise(tmp_path / "data", hosts)
    assert list((tmp_path / "data").iterdir()) == []
    initialise(tmp_path / "data")


def test_a_place_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(InvalidInput, match="cannot be made"):
            initialise(target)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="partywall init"):
        read_admin_digest(DataDir(tmp_path))
    with pytest.raises(NotReady, match=r"ca\.pem"):
        load_authority(DataDir(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\n", b"pwadmin_short", b"pw_abcdefgh_" + b"x" * 43, b"\xff" * 60])
def test_a_damaged_admin_key_opens_nothing(data: DataDir, content: bytes) -> None:
    data.admin_key.write_bytes(content)
    with pytest.raises(NotReady, match=r"admin\.key.*restore"):
        read_admin_digest(data)


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_damaged_authority_is_named(data: DataDir, name: str, content: bytes) -> None:
    (data.ca / name).write_bytes(content)
    with pytest.raises(NotReady, match=r"ca\.pem or ca\.key.*restore both"):
        load_authority(data)


def test_the_routers_certificate_is_renewed_with_its_hosts(data: DataDir, clock: VirtualClock) -> None:
    first = router_identity(data, clock)
    assert router_identity(data, clock) == first
    clock.advance(timedelta(days=370).total_seconds())
    assert router_identity(data, clock, renew=False) == first
    renewed = router_identity(data, clock)
    assert renewed != first
    assert time_left(renewed.certificate_pem, clock.now()) > timedelta(days=300)
    certificate = x509.load_pem_x509_certificate(renewed.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "router.example" in names.get_values_for_type(x509.DNSName)
    assert router_identity(data, clock) == renewed


def test_the_local_agent_starts_again_after_a_long_pause(data: DataDir, clock: VirtualClock) -> None:
    before = (data.node / "agent.pem").read_bytes()
    refresh_local_agent(data, clock)
    assert (data.node / "agent.pem").read_bytes() == before
    clock.advance(timedelta(days=500).total_seconds())
    refresh_local_agent(data, clock)
    assert time_left((data.node / "agent.pem").read_bytes(), clock.now()) > timedelta(days=300)


def test_an_admin_key_that_others_may_read_is_refused(data: DataDir) -> None:
    data.admin_key.chmod(0o640)
    with pytest.raises(NotReady, match=r"admin\.key has mode 0640.*chmod 600"):
        read_admin_digest(data)
    data.admin_key.chmod(0o600)
    assert read_admin_digest(data)


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_database_that_is_gone_is_not_made_anew(data: DataDir, how: str) -> None:
    check_state(data)
    data.state.unlink()
    if how == "empty":
        data.state.touch()
    with pytest.raises(NotReady, match=f"state\\.db is {how}: put it back from its backup"):
        check_state(data)


@pytest.mark.parametrize("name", ["agent.pem", "agent.key"])
def test_a_damaged_certificate_of_the_local_agent_is_made_anew(data: DataDir, clock: VirtualClock, name: str) -> None:
    (data.node / name).write_bytes(b"\xff torn")
    refresh_local_agent(data, clock)
    certificate = x509.load_pem_x509_certificate((data.node / "agent.pem").read_bytes())
    key = serialization.load_pem_private_key((data.node / "agent.key").read_bytes(), password=None)
    assert certificate.public_key() == key.public_key()
