"""The live planner put together: how many replicas, who stands beside whom, how large their shares are."""

from __future__ import annotations

from collections.abc import Callable

from router.control.planning import LivePlanner
from router.control.profile_book import ProfileBook
from router.control.reconcile import Reconciler
from router.control.regrouping import Regrouping
from router.control.resharing import Resharing
from router.policy.regroup import Regrouper, RegroupLimits
from router.policy.reshare import ReshareLimits, Resharer
from router.policy.scaling import ScalingLimits
from router.policy.triggers import TriggerSettings
from router.processes.siblings import Siblings
from router.processes.tally import Tally
from router.settings import RouterSettings


def live_planner(
    settings: RouterSettings,
    reconciler: Reconciler | None,
    siblings: Siblings,
    measuring: Callable[[str], bool],
    book: ProfileBook,
) -> LivePlanner | None:
    """In the leading process, by what all of them counted; None in the others and where nothing is counted.

    Args:
        settings: The operator's.
        reconciler: The leading process's.
        siblings: The processes of this router.
        measuring: Whether a profile is taken on a node now.
        book: Finished profiles.
    """
    if reconciler is None or not settings.metrics:
        return None
    tally = Tally(siblings.totals)
    scene, manoeuvres, hold_s = reconciler.scene, reconciler.manoeuvres, settings.merge_after_s
    grouping = RegroupLimits(hold_s=hold_s)
    return LivePlanner(
        scene,
        tally,
        ScalingLimits(most=settings.max_replicas, triggers=TriggerSettings(hold_s=hold_s)),
        reconciler.kick,
        apply=settings.planner,
        refresh=tally.refresh,
        idle_s=settings.idle_s,
        regrouping=Regrouping(
            scene,
            manoeuvres,
            Regrouper(grouping),
            apply=settings.planner and settings.regroup,
            measuring=measuring,
        ),
        resharing=Resharing(
            scene,
            manoeuvres,
            Resharer(ReshareLimits(hold_s=hold_s)),
            book.curve,
            apply=settings.planner and settings.reshare,
            grouping=grouping if settings.regroup else None,
            most=settings.max_replicas,
            measuring=measuring,
        ),
    )
