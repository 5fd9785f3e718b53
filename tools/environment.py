"""Create the environment in `.venv`, or find out in a moment that it is up to date.

Runs before anything is installed, under whatever Python there is: standard library only, and no syntax newer
than Python 3.7, so that an old Python gets a message and not a SyntaxError.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "py311.txt"
SUPPORTED = (3, 11)
# Measured: the environment takes 6.8 GB; its downloads, about 3 GB, lie beside it until it is complete.
GIGABYTES = 10.0
UNREACHABLE = re.compile(
    r"Failed to establish a new connection|Temporary failure in name resolution|Name or service not known"
    r"|Connection refused|Network is unreachable|No route to host|[Tt]imed out|ConnectTimeout|ProxyError"
    r"|SSLError|CERTIFICATE_VERIFY_FAILED|RemoteDisconnected|Connection aborted|Connection reset"
)
REACHED = re.compile(r"from versions: \d|ResolutionImpossible|Failed building|Failed to build")


class Trouble(Exception):
    """The environment cannot be made; the message says what was asked, what was found and what to do."""


def check_python(version, executable):
    """Raise unless the interpreter is the one the lock is made for."""
    if tuple(version[:2]) != SUPPORTED:
        raise Trouble(
            "The book's environment needs Python 3.11: its exact versions are locked for it.\n"
            f"Found Python {version[0]}.{version[1]} ({executable}).\n"
            "Install Python 3.11 and run the command again, or name it: make book PYTHON=…/python3.11\n"
            "With conda: conda env create -f environment.yml"
        )


def check_git(found):
    """Raise unless git was found."""
    if not found:
        raise Trouble(
            "git is needed: runs and figures record the commit they come from.\n"
            "Found no `git` on the PATH.\n"
            "Install it with your system's package manager and run the command again."
        )


def check_disk(free_bytes, venv):
    """Raise unless the environment fits on the disk."""
    free = free_bytes / 1e9
    if free < GIGABYTES:
        raise Trouble(
            f"A new environment needs {GIGABYTES:.0f} GB of free disk, most of it PyTorch.\n"
            f"Found {free:.1f} GB free where {venv} is to be.\n"
            "Free some space, or put it on another disk: make book VENV=/other/disk/venv"
        )


def explain_pip(output, log):
    """What went wrong in pip's output, in words; the first cause that is recognised."""
    if "No space left on device" in output:
        return (
            "Installing the packages filled the disk.\n"
            f"Free some space (installing takes {GIGABYTES:.0f} GB), or put the environment on another disk: "
            f"make book VENV=/other/disk/venv\nFull output: {log}"
        )
    if UNREACHABLE.search(output) and not REACHED.search(output):
        cause = telling_line(output, UNREACHABLE).split("'")[0]  # without pip's quotes and brackets
        return (
            "The package registry cannot be reached.\n"
            f"pip said: {cause}\n"
            "Check the network, the proxy (HTTPS_PROXY) and pip's own settings (`pip config list`), then run "
            "the command again; what is already downloaded is kept.\n"
            f"Full output: {log}"
        )
    return (
        f"pip could not install the packages of {LOCK.relative_to(ROOT)}.\n"
        f"pip said: {telling_line(output, re.compile('ERROR'))}\n"
        "The registry was reached, so a package or this platform is the cause: the lock is made and tested "
        "on Linux x86-64; elsewhere use `conda env create -f environment.yml`.\n"
        f"Full output: {log}"
    )


def telling_line(output, pattern):
    """What stands from the last match to the end of its line; without a match, the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["nothing"]
    matches = [match for line in lines for match in pattern.finditer(line)]
    return (matches[-1].string[matches[-1].start() :] if matches else lines[-1])[:200]


def locked_lines(text):
    """The requirements of a lock file, without comments."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def fingerprints():
    """What the environment is made from: the lock, and the part of pyproject.toml that installing reads."""
    import tomllib  # Python 3.11; the version is checked before

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    described = json.dumps([project["build-system"], project["project"]], sort_keys=True)
    lock = "\n".join(locked_lines(LOCK.read_text(encoding="utf-8")))
    return {
        "lock": hashlib.sha256(lock.encode()).hexdigest(),
        "project": hashlib.sha256(described.encode()).hexdigest(),
        "root": str(ROOT),
    }


def read_stamp(venv):
    """What the environment was made from, or nothing if it was never finished."""
    try:
        return json.loads((venv / "made-from.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def plan(venv, wanted):
    """The steps that are missing: some of 'create', 'packages', 'project'."""
    stamp = read_stamp(venv)
    if not (venv / "bin" / "python").exists() or (venv / "unfinished").exists():
        return ["create", "packages", "project"]
    if stamp.get("lock") != wanted["lock"]:
        return ["packages", "project"]
    if stamp != wanted:
        return ["project"]
    return []


def run(command, log, say):
    """Run a command with its output in `log` and a sign of life to `say`; raise if it fails, and say why."""
    seen = []
    last = start = time.monotonic()
    with log.open("a", encoding="utf-8") as file:
        file.write("$ {}\n".format(" ".join(map(str, command))))
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            cwd=str(ROOT),
        )
        for line in process.stdout:
            file.write(line)
            seen.append(line)
            now = time.monotonic()
            if now - last > 20 and re.match(r"\s*(Collecting|Downloading|Installing|Building)", line):
                last = now
                say("  {:4.0f} s  {}".format(now - start, line.strip().split(" (")[0][:80]))
        process.wait()
    if process.returncode:
        raise Trouble(explain_pip("".join(seen), log))


def make(venv, steps, wanted, say):
    """Carry out the steps of :func:`plan`."""
    log = ROOT / "_build" / "environment.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("", encoding="utf-8")
    start = time.monotonic()
    if "create" in steps:
        parent = next(folder for folder in [venv.parent, *venv.parent.parents] if folder.exists())
        check_disk(shutil.disk_usage(str(parent)).free, venv)
        say("Creating {} with Python {}.{}".format(venv, *sys.version_info[:2]))
        created = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(venv)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if created.returncode:
            raise Trouble(
                "Python's own `venv` module could not create {}.\n"
                "It said: {}\n"
                "On Debian and Ubuntu it is a package of its own: apt install python3.11-venv".format(
                    venv, telling_line(created.stdout, re.compile("rror|not"))
                )
            )
    unfinished = venv / "unfinished"
    unfinished.write_text("An installation was begun and has not ended.\n", encoding="utf-8")
    pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    if "packages" in steps:
        lines = locked_lines(LOCK.read_text(encoding="utf-8"))
        first = next(line for line in lines if ";" not in line)
        run([*pip, "download", "-q", "--no-deps", "--retries", "1", "-d", venv / "probe", first], log, say)
        shutil.rmtree(str(venv / "probe"), ignore_errors=True)
        say(f"Installing {len(lines)} packages (about 3 GB to download the first time)")
        run([*pip, "install", "--progress-bar", "off", "-r", LOCK], log, say)
    run([*pip, "install", "--progress-bar", "off", "--no-deps", "-e", ROOT], log, say)
    (venv / "made-from.json").write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    unfinished.unlink()
    say(f"The environment is ready ({time.monotonic() - start:.0f} s).")


def main():
    """Make the environment if something of it is missing."""
    parser = argparse.ArgumentParser(description="Create or update the project's environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where it is, or will be")
    venv = (ROOT / parser.parse_args().venv).absolute()
    try:
        check_python(sys.version_info, sys.executable)
        wanted = fingerprints()
        steps = plan(venv, wanted)
        if steps:
            check_git(shutil.which("git"))
            make(venv, steps, wanted, lambda text: print(text, flush=True))
    except Trouble as trouble:
        sys.exit(f"\n{trouble}\n")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The next run begins the installation anew; downloads are kept.\n")


if __name__ == "__main__":
    main()
