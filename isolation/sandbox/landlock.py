"""Landlock: which rights a kernel can restrict, and the three system calls behind it.

Numbers and layouts are the kernel's user API (include/uapi/linux/landlock.h; Documentation/userspace-api/landlock.rst).
The system call numbers are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import enum
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1


class FileRight(enum.IntFlag):
    """Rights on files and folders."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


_ABI1 = FileRight((1 << 13) - 1)
_FILE_ONLY = FileRight.EXECUTE | FileRight.WRITE_FILE | FileRight.READ_FILE | FileRight.TRUNCATE | FileRight.IOCTL_DEV
READ = FileRight.READ_FILE | FileRight.READ_DIR
# Whoever may write a folder may not execute from it, nor make device nodes in it.
WRITE = (
    READ
    | FileRight.WRITE_FILE
    | FileRight.TRUNCATE
    | FileRight.REMOVE_FILE
    | FileRight.REMOVE_DIR
    | FileRight.MAKE_DIR
    | FileRight.MAKE_REG
    | FileRight.MAKE_SOCK
    | FileRight.MAKE_FIFO
    | FileRight.IOCTL_DEV
)
_NET_TCP_BIND_AND_CONNECT = 0b11
_SCOPE_ABSTRACT_SOCKET_AND_SIGNAL = 0b11


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What is denied (`handled_*`, `scoped`) but for the paths listed. Bit masks in the kernel's numbering."""

    handled_files: int
    handled_net: int
    scoped: int
    rules: tuple[tuple[Path, int], ...]


def ruleset_for_abi(abi: int, read_paths: Iterable[Path], write_paths: Iterable[Path]) -> Ruleset:
    """The strictest ruleset that a kernel of this ABI knows: no execution, reads and writes only where listed, no TCP
    (ABI 4), no signals and no abstract sockets to processes outside (ABI 6)."""
    files = _ABI1
    if abi >= 2:
        files |= FileRight.REFER
    if abi >= 3:
        files |= FileRight.TRUNCATE
    if abi >= 5:
        files |= FileRight.IOCTL_DEV
    rules = [(path, int(READ & files)) for path in read_paths] + [(path, int(WRITE & files)) for path in write_paths]
    return Ruleset(
        handled_files=int(files),
        handled_net=_NET_TCP_BIND_AND_CONNECT if abi >= 4 else 0,
        scoped=_SCOPE_ABSTRACT_SOCKET_AND_SIGNAL if abi >= 6 else 0,
        rules=tuple(rules),
    )


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def kernel_abi() -> int:
    """Version of Landlock in this kernel; 0 where it is absent or switched off."""
    answer = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    return max(0, int(answer))


def restrict(ruleset: Ruleset) -> None:
    """Puts this thread and all it starts under the ruleset, for good. Needs no_new_privs. Paths that do not exist are
    left out: nothing is there to be read. Raises OSError when the kernel refuses."""
    attr = _RulesetAttr(ruleset.handled_files, ruleset.handled_net, ruleset.scoped)
    # Older kernels refuse fields they do not know, unless they are zero and beyond the size given.
    size = 24 if ruleset.scoped else 16 if ruleset.handled_net else 8
    libc = _libc()
    fd = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(attr), ctypes.c_size_t(size), 0), "create a ruleset")
    try:
        for path, rights in ruleset.rules:
            _allow(libc, fd, path, rights)
        _checked(libc.syscall(_RESTRICT_SELF, fd, 0), "restrict this process")
    finally:
        os.close(fd)


def _allow(libc: ctypes.CDLL, ruleset_fd: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= int(_FILE_ONLY)
        rule = _PathBeneathAttr(rights, fd)
        _checked(libc.syscall(_ADD_RULE, ruleset_fd, _RULE_PATH_BENEATH, ctypes.byref(rule), 0), f"allow {path}")
    finally:
        os.close(fd)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(answer: int, what: str) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock could not {what}: {os.strerror(number)}")
    return answer
