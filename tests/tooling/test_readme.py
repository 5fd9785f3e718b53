"""What the README shows works as shown."""

import re
import subprocess

from tools.environment import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other():
    names = {}
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) >= 2
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert names["features"].grad.norm() > 0
    assert all(p.grad is not None for p in names["student"].parameters())


def test_every_command_exists():
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  make (\w+)", help_text, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    shown = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    assert set(re.findall(r"^make (\w+)", shown, re.MULTILINE)) == {"book", "test", "demo"} <= targets


def test_every_folder_in_the_map_exists():
    table = README.split("## What is where")[1].split("## ")[0]
    for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", cell)
        assert (ROOT / first).is_dir(), first
        for name in others:
            assert (ROOT / name).is_dir() or (ROOT / first).with_name(name).is_dir(), name


def test_every_relative_link_leads_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "decisions").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} → {target}"
