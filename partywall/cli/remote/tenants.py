"""`partywall tenants|keys|quota`: the operator's commands on the admin port."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from partywall.cli.options import command
from partywall.cli.remote.rows import key_row, quota_row, tenant_row
from partywall.cli.session import Session
from partywall.cli.values import human_bytes, limit_count, limit_number, limit_size, parse_duration, whole_seconds
from partywall.client.flow import TENANTS
from partywall.domain.names import check_name
from partywall.domain.tenants import TrustPolicy
from partywall.errors import InvalidInput
from partywall.v1 import tenants_pb2 as pb

tenants = typer.Typer(no_args_is_help=True, help="Create, look at, suspend and delete tenants.")
keys = typer.Typer(no_args_is_help=True, help="Issue and revoke tenants' API keys.")
quota = typer.Typer(no_args_is_help=True, help="Limits, weight and trust of a tenant.")

Name = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")]


@tenants.command("create")
@command
def create(session: Session, name: Name) -> None:
    """Make a tenant."""
    check_name(name, "tenant")
    tenant = session.operator().call(TENANTS["CreateTenant"], pb.CreateTenantRequest(name=name))
    session.printer.record(tenant_row(tenant))
    session.printer.note(f"next: partywall keys issue {name}")


@tenants.command("list")
@command
def list_tenants(session: Session) -> None:
    """All tenants."""
    answer = session.operator().call(TENANTS["ListTenants"], pb.ListTenantsRequest(), idempotent=True)
    rows = [tenant_row(tenant) for tenant in answer.tenants]
    columns = {"name": "NAME", "state": "STATE", "models": "MODELS", "live_keys": "KEYS", "created_at": "CREATED"}
    session.printer.rows(rows, columns, empty="no tenants yet: partywall tenants create NAME")


@tenants.command("show")
@command
def show(session: Session, name: Name) -> None:
    """One tenant with its limits."""
    session.printer.record(tenant_row(_get(session, name)))


@tenants.command("suspend")
@command
def suspend(session: Session, name: Name) -> None:
    """Refuse a tenant's calls; nothing of it is lost."""
    tenant = session.operator().call(TENANTS["SuspendTenant"], pb.SuspendTenantRequest(name=name))
    session.printer.record(tenant_row(tenant))


@tenants.command("resume")
@command
def resume(session: Session, name: Name) -> None:
    """Take a suspended tenant's calls again."""
    tenant = session.operator().call(TENANTS["ResumeTenant"], pb.ResumeTenantRequest(name=name))
    session.printer.record(tenant_row(tenant))


@tenants.command("delete")
@command
def delete(
    session: Session, name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Destroy a tenant's keys, then its models: nothing of it can be decrypted again, not from a backup either."""
    confirm_by_name(name, f"This destroys tenant {name} with its keys and all its models, for good.", yes=yes)
    answer = session.operator().call(TENANTS["DeleteTenant"], pb.DeleteTenantRequest(name=name))
    session.printer.record(
        {
            "name": name,
            "keys_shredded": answer.keys_shredded,
            "versions_removed": answer.versions_removed,
            "blob_bytes_removed": answer.blob_bytes_removed,
        }
    )


@keys.command("issue")
@command
def issue(
    session: Session,
    name: Name,
    lifetime: Annotated[
        float | None, typer.Option("--lifetime", parser=parse_duration, metavar="90d", help="Until it expires.")
    ] = None,
) -> None:
    """Issue a key. It is shown once: only its digest is kept."""
    request = pb.IssueKeyRequest(tenant=name, lifetime_s=whole_seconds(lifetime))
    answer = session.operator().call(TENANTS["IssueKey"], request)
    session.printer.record({"id": answer.key.id, "key": answer.secret})
    session.printer.note("keep it now: it is not shown again")


@keys.command("list")
@command
def list_keys(session: Session, name: Name) -> None:
    """A tenant's keys, without the keys themselves."""
    answer = session.operator().call(TENANTS["ListKeys"], pb.ListKeysRequest(tenant=name), idempotent=True)
    columns = {"id": "ID", "created_at": "CREATED", "expires_at": "EXPIRES", "revoked_at": "REVOKED"}
    columns["last_used_at"] = "LAST USED"
    rows = [key_row(key) for key in answer.keys]
    session.printer.rows(rows, columns, empty=f"no keys yet: partywall keys issue {name}")


@keys.command("revoke")
@command
def revoke(
    session: Session, name: Name, key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows.")]
) -> None:
    """Make a key useless, at once."""
    key = session.operator().call(TENANTS["RevokeKey"], pb.RevokeKeyRequest(tenant=name, id=key_id))
    session.printer.record(key_row(key))


@quota.command("show")
@command
def show_quota(session: Session, name: Name) -> None:
    """A tenant's limits; none means no limit."""
    session.printer.record({"tenant": name, **quota_row(_get(session, name).quota)})


@quota.command("set")
@command
def set_quota(
    session: Session,
    name: Name,
    requests_per_s: Annotated[float | None, typer.Option(parser=limit_number, metavar="N|none")] = None,
    burst: Annotated[int | None, typer.Option(parser=limit_count, metavar="N|none", help="At once.")] = None,
    in_flight: Annotated[int | None, typer.Option(parser=limit_count, metavar="N|none")] = None,
    model_bytes: Annotated[int | None, typer.Option(parser=limit_size, metavar="SIZE|none", help="E.g. 2GiB.")] = None,
    device_memory: Annotated[int | None, typer.Option(parser=limit_size, metavar="SIZE|none")] = None,
    weight: Annotated[float | None, typer.Option(help="Share under contention, beside the others' weights.")] = None,
    trust_group: Annotated[str | None, typer.Option(help="Tenants that may be neighbours on a device.")] = None,
    trust_policy: Annotated[TrustPolicy | None, typer.Option(help="What it accepts beside itself.")] = None,
) -> None:
    """Change limits; what is not named stays as it is, `none` removes a limit."""
    given: dict[str, Any] = {
        "requests_per_s": requests_per_s,
        "burst": burst,
        "max_in_flight": in_flight,
        "model_bytes": model_bytes,
        "device_memory_bytes": device_memory,
        "weight": weight,
        "trust_group": check_name(trust_group, "trust_group") if trust_group is not None else None,
    }
    changes = pb.Quota(**{key: value for key, value in given.items() if value is not None})
    if trust_policy is not None:
        changes.trust_policy = pb.TrustPolicy.Value(f"TRUST_POLICY_{trust_policy.name}")
    if not changes.ListFields():
        raise InvalidInput(
            "quota set: nothing to change was given",
            fields={"hint": f"for example: partywall quota set {name} --requests-per-s 100"},
        )
    tenant = session.operator().call(TENANTS["SetQuota"], pb.SetQuotaRequest(name=name, quota=changes))
    session.printer.record({"tenant": name, **quota_row(tenant.quota)})
    used = human_bytes(tenant.model_bytes_used)
    session.printer.note(f"models of {name} take {used} now")


def confirm_by_name(name: str, warning: str, *, yes: bool) -> None:
    """Asks to type a name; without a terminal `--yes` is needed.

    Raises:
        typer.BadParameter: The name was not typed, or nobody can type it.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("this cannot be undone and nobody is there to be asked: add --yes")
    typer.echo(warning, err=True)
    if typer.prompt(f"Type {name} to go on", err=True) != name:
        raise typer.BadParameter("the name does not match; nothing was done")


def _get(session: Session, name: str) -> pb.Tenant:
    request = pb.GetTenantRequest(name=name)
    tenant: pb.Tenant = session.operator().call(TENANTS["GetTenant"], request, idempotent=True)
    return tenant
