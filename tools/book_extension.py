"""What the book's build needs beyond Jupyter Book; Sphinx loads it through `_config.yml`.

- The execution cache is keyed on everything a chapter's outputs depend on. jupyter-cache itself sees only the
  notebook, so that after a change of the library it would go on showing the old figures.
- Stale page trees are dropped when the table of contents or the configuration changes: sphinx-external-toc
  fails on them when the numbering has changed.
- MathJax comes from the installed package, so that a page needs nothing from outside to be read.
"""

import hashlib
import importlib.util
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHES = ROOT / "_build" / "executed"
MATHJAX = ("tex-mml-chtml.js", "input/tex/extensions", "output/chtml/fonts/woff-v2")


def digest(paths):
    """Sixteen hexadecimal digits that change with any name or content in `paths`, and with the Python."""
    state = hashlib.sha256(sys.version.encode())
    for path in sorted(paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.exists() and "__pycache__" not in file.parts:
                state.update(str(file.relative_to(ROOT)).encode())
                state.update(file.read_bytes())
    return state.hexdigest()[:16]


def cache_folder():
    """Where the chapters are kept as executed with the present library, results and versions."""
    return CACHES / digest([ROOT / "topokd_lib", ROOT / "results", ROOT / "requirements" / "py311.txt"])


def drop_stale_pages(doctrees):
    """Forget the parsed pages if they were parsed with another table of contents or configuration."""
    doctrees = Path(doctrees)
    stamp, now = doctrees / "structure", digest([ROOT / "_toc.yml", ROOT / "_config.yml"])
    if doctrees.exists() and (not stamp.exists() or stamp.read_text(encoding="utf-8") != now):
        shutil.rmtree(doctrees)
    doctrees.mkdir(parents=True, exist_ok=True)
    stamp.write_text(now, encoding="utf-8")


def copy_mathjax(target):
    """Copy the part of MathJax 3.2.2 that pages load: the renderer, its TeX extensions and its fonts."""
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "the pages' formulas need MathJax from the package sphinx-mathjax-offline, which is not "
            "installed here; build with `make book`, or install it: pip install sphinx-mathjax-offline==0.0.2"
        )
    source = Path(found.submodule_search_locations[0]) / "static" / "mathjax"
    for name in MATHJAX:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def setup(app):
    """Called by Sphinx."""
    drop_stale_pages(app.doctreedir)

    def use_keyed_cache(_app, config):
        config.nb_execution_cache_path = str(cache_folder())

    def provide_mathjax(app):
        copy_mathjax(Path(app.outdir) / "_static" / Path(app.config.mathjax_path).parent)

    app.connect("config-inited", use_keyed_cache)
    app.connect("builder-inited", provide_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
