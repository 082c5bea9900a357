"""Asks about known vulnerabilities of what the locks name: `make audit`, and the beginning of `make test`.

pip-audit asks, if it is installed (`pipx install pip-audit`; no dependency, for without a network it is of no use) and
reaches its source of advisories. Otherwise all that can be said is how old the locks are, and that is said. Status 1 if
something was found; what was merely not asked is no failure.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
OLD_DAYS = 90
PATIENCE_SECONDS = 300


def main() -> int:
    found = False
    for lock in sorted(CHECKOUT.glob("requirements*.lock")):
        print(f"{lock.name}: {len(packages(lock))} packages, {age(lock)}")
    program = shutil.which("pip-audit")
    if program is None:
        print("Advisories: not asked, pip-audit is not installed")
        return 0
    for lock in sorted(CHECKOUT.glob("requirements*.lock")):
        told = ask(program, lock)
        if isinstance(told, str):
            print(f"Advisories: not asked, pip-audit says: {told}")
            return int(found)
        lines = [line for package in told for line in vulnerabilities(package)]
        print("\n".join(lines) or f"{lock.name}: no known vulnerability")
        found = found or bool(lines)
    return int(found)


def packages(lock: Path) -> list[str]:
    return re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==", lock.read_text(), re.MULTILINE)


def age(lock: Path) -> str:
    """When it was last changed, by its commit where there is one; a checkout gives files the time of their arrival."""
    command = ["git", "log", "-1", "--format=%ct", "--", lock.name]
    try:
        said = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        said = ""
    changed = float(said or lock.stat().st_mtime)
    days = int((time.time() - changed) // 86400)
    hint = "; that is old, and CONTRIBUTING.md says how it is made anew" if days > OLD_DAYS else ""
    return f"last changed {time.strftime('%Y-%m-%d', time.gmtime(changed))}, {days} days ago{hint}"


def ask(program: str, lock: Path) -> list[dict[str, Any]] | str:
    """What is known of each package; or why nothing is."""
    # Nothing is installed for it: a lock with hashes says all.
    command = [program, "--requirement", str(lock), "--require-hashes", "--disable-pip", "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", "15", *sys.argv[1:]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        return list(json.loads(done.stdout)["dependencies"])
    except subprocess.TimeoutExpired:
        return "no answer in time"
    except (ValueError, KeyError, TypeError):
        return next(iter(reversed(done.stderr.strip().splitlines())), f"status {done.returncode}")


def vulnerabilities(package: dict[str, Any]) -> list[str]:
    return [
        f"VULNERABLE {package['name']} {package['version']}: {each['id']}, "
        f"fixed in {', '.join(each.get('fix_versions') or []) or 'no version yet'}"
        for each in package.get("vulns", [])
    ]


if __name__ == "__main__":
    sys.exit(main())
