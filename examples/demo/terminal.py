"""What the demo prints, and how it types commands."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

PARTYWALL = Path(sys.executable).with_name("partywall")
_COMMAND_TIMEOUT_S = 180.0


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to look at."""


class Terminal:
    """Prints steps and runs the real command line, showing each command as a user would type it."""

    def __init__(self, folder: Path) -> None:
        self.console = Console(highlight=False)
        self._folder = folder
        self._begin_s = time.monotonic()

    def step(self, title: str) -> None:
        """A heading with the time since the start."""
        took = f"[dim]({time.monotonic() - self._begin_s:.0f} s)[/dim]"
        self.console.print(f"\n[bold]{title}[/bold] {took}", soft_wrap=True)

    def say(self, text: str) -> None:
        """A plain line."""
        self.console.print(f"  {text}", soft_wrap=True)

    def partywall(self, *arguments: str, show: bool = True) -> Any:
        """Runs `partywall ARGUMENTS -o json` and returns what it printed, parsed (None for nothing).

        Raises:
            DemoError: The command failed; its own error text is in the message.
        """
        if show:
            self.show(*arguments)
        try:
            done = subprocess.run(
                [str(PARTYWALL), *arguments, "-o", "json"],
                capture_output=True,
                text=True,
                timeout=_COMMAND_TIMEOUT_S,
                env=child_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"{self._typed(arguments)}\ndid not end within {_COMMAND_TIMEOUT_S:g} s") from error
        if done.returncode != 0:
            raise DemoError(f"{self._typed(arguments)}\nended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def show(self, *arguments: str) -> None:
        """Prints a command as it is typed, without running it."""
        self.console.print(f"  [cyan]$ {self._typed(arguments)}[/cyan]", soft_wrap=True, markup=True)

    def _typed(self, arguments: tuple[str, ...]) -> str:
        shown = shlex.join(["partywall", *arguments])
        for prefix in (self._folder, Path.cwd()):
            shown = shown.replace(f"{prefix}{os.sep}", "")
        return shown.replace("[", "\\[")


def child_environment() -> Mapping[str, str]:
    """The environment of every process the demo starts: no settings of the user's leak in, no model hub is asked."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PARTYWALL_")}
    return {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
