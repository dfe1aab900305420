"""The kernel calls that the sandbox makes: a Protocol, Linux, and a simulated kernel that records them."""

from __future__ import annotations

import ctypes
import os
import resource
from dataclasses import dataclass, field
from typing import Protocol

from isolation.sandbox import landlock
from isolation.sandbox.landlock import Ruleset

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 38, 39


class SandboxKernel(Protocol):
    """Each call works on the calling process, is irreversible where the kernel makes it so, and raises OSError."""

    def set_no_new_privs(self) -> None: ...

    def no_new_privs(self) -> bool: ...

    def set_not_dumpable(self) -> None: ...

    def dumpable(self) -> bool: ...

    def set_parent_death_signal(self, signal_number: int) -> None: ...

    def parent_death_signal(self) -> int: ...

    def set_core_limit(self, limit_bytes: int) -> None: ...

    def core_limit(self) -> int: ...

    def landlock_abi(self) -> int: ...

    def landlock_restrict(self, ruleset: Ruleset) -> None: ...


class LinuxKernel:
    """The running kernel, through prctl and the Landlock system calls."""

    def set_no_new_privs(self) -> None:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)

    def no_new_privs(self) -> bool:
        return _prctl(_PR_GET_NO_NEW_PRIVS, 0) == 1

    def set_not_dumpable(self) -> None:
        _prctl(_PR_SET_DUMPABLE, 0)

    def dumpable(self) -> bool:
        return _prctl(_PR_GET_DUMPABLE, 0) != 0

    def set_parent_death_signal(self, signal_number: int) -> None:
        _prctl(_PR_SET_PDEATHSIG, signal_number)

    def parent_death_signal(self) -> int:
        number = ctypes.c_int(0)
        _prctl(_PR_GET_PDEATHSIG, ctypes.addressof(number))
        return number.value

    def set_core_limit(self, limit_bytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (limit_bytes, limit_bytes))

    def core_limit(self) -> int:
        return resource.getrlimit(resource.RLIMIT_CORE)[1]

    def landlock_abi(self) -> int:
        return landlock.kernel_abi()

    def landlock_restrict(self, ruleset: Ruleset) -> None:
        landlock.restrict(ruleset)


@dataclass(slots=True)
class SimulatedKernel:
    """A kernel of any Landlock ABI that remembers what it was told; `broken` names calls that raise OSError."""

    abi: int = 7
    broken: frozenset[str] = frozenset()
    rulesets: list[Ruleset] = field(default_factory=list)
    _no_new_privs: bool = False
    _dumpable: bool = True
    _death_signal: int = 0
    _core_limit: int = -1

    def set_no_new_privs(self) -> None:
        self._check("set_no_new_privs")
        self._no_new_privs = True

    def no_new_privs(self) -> bool:
        return self._no_new_privs

    def set_not_dumpable(self) -> None:
        self._check("set_not_dumpable")
        self._dumpable = False

    def dumpable(self) -> bool:
        return self._dumpable

    def set_parent_death_signal(self, signal_number: int) -> None:
        self._check("set_parent_death_signal")
        self._death_signal = signal_number

    def parent_death_signal(self) -> int:
        return self._death_signal

    def set_core_limit(self, limit_bytes: int) -> None:
        self._check("set_core_limit")
        self._core_limit = limit_bytes

    def core_limit(self) -> int:
        return self._core_limit

    def landlock_abi(self) -> int:
        return self.abi

    def landlock_restrict(self, ruleset: Ruleset) -> None:
        self._check("landlock_restrict")
        if not self._no_new_privs:
            raise PermissionError(1, "landlock needs no_new_privs first")
        self.rulesets.append(ruleset)

    def _check(self, call: str) -> None:
        if call in self.broken:
            raise OSError(22, f"{call} was told to fail")


def _prctl(option: int, argument: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    unsigned = ctypes.c_ulong
    answer = int(libc.prctl(option, unsigned(argument), unsigned(0), unsigned(0), unsigned(0)))
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}) failed: {os.strerror(number)}")
    return answer
