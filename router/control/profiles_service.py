"""partywall.v1.Profiles: for a tenant on the public port, for the operator on the admin port."""

from __future__ import annotations

from typing import Any

from partywall.v1 import profiles_pb2 as pb
from partywall.v1 import profiles_pb2_grpc
from router.control.models_service import CallerResolver
from router.control.profiles import ProfileJobs


class ProfilesService(profiles_pb2_grpc.ProfilesServicer):
    """One implementation for both ports; `operator`: on the admin port, where nodes may be named."""

    def __init__(self, jobs: ProfileJobs, resolve: CallerResolver, *, operator: bool = False) -> None:
        self._jobs = jobs
        self._resolve = resolve
        self._operator = operator

    async def ProfileModel(self, request: pb.ProfileModelRequest, context: Any) -> pb.GetProfileResponse:  # noqa: N802
        return await self._jobs.start(self._resolve(context), request, operator=self._operator)

    async def GetProfile(self, request: pb.GetProfileRequest, context: Any) -> pb.GetProfileResponse:  # noqa: N802
        return self._jobs.show(self._resolve(context), request.name, request.version)

    async def CancelProfile(self, request: pb.CancelProfileRequest, context: Any) -> pb.GetProfileResponse:  # noqa: N802
        return self._jobs.cancel(self._resolve(context), request.name, request.version)
