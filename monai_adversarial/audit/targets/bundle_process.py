# SPDX-License-Identifier: Apache-2.0
"""A bundle's own code in this process: its folder importable, its weights loaded without code, everything put back."""

from __future__ import annotations

import os
import pickle
import random
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import monai.utils.misc
import numpy as np
import torch

from monai_adversarial.audit.facts import TargetError

__all__ = ["BundleScripts", "Loaded", "bundle_process", "listing"]


class BundleScripts:
    """The modules of a bundle's folder, such as ``scripts``: those of one bundle at a time.

    Bundles call their modules by the same names, so that those of the last one must not answer for the next.

    Args:
        root: folder of the bundle.
    """

    installed: ClassVar[BundleScripts | None] = None

    def __init__(self, root: Path) -> None:
        self.root = root
        self._own: dict[str, Any] = {}
        self._hidden: dict[str, Any] = {}

    def install(self) -> None:
        """Make the folder importable, before all others."""
        if BundleScripts.installed is self:
            return
        if BundleScripts.installed is not None:
            BundleScripts.installed.remove()
        names = {path.stem for path in self.root.glob("*.py")}
        names |= {path.parent.name for path in self.root.glob("*/*.py")}
        foreign = [name for name in sys.modules if name.split(".")[0] in names and not _is_library(name.split(".")[0])]
        self._hidden = {name: sys.modules.pop(name) for name in foreign}
        sys.modules.update(self._own)
        sys.path.insert(0, str(self.root))
        BundleScripts.installed = self

    def remove(self) -> None:
        """Take the folder and its modules out again; what was hidden comes back."""
        if BundleScripts.installed is not self:
            return
        self._own = {name: sys.modules.pop(name) for name in list(sys.modules) if self._holds(sys.modules.get(name))}
        if str(self.root) in sys.path:
            sys.path.remove(str(self.root))
        sys.modules.update(self._hidden)
        self._hidden = {}
        BundleScripts.installed = None

    def files(self) -> list[Path]:
        """The bundle's own modules that are loaded."""
        loaded = list(sys.modules.values()) if BundleScripts.installed is self else list(self._own.values())
        return sorted({Path(str(m.__file__)) for m in loaded if self._holds(m) and getattr(m, "__file__", None)})

    def _holds(self, module: Any) -> bool:
        places = [getattr(module, "__file__", None), *_paths(module)]
        return any(place and str(place).startswith(f"{self.root}{os.sep}") for place in places)


def _paths(module: Any) -> list[str]:
    try:
        return [str(path) for path in getattr(module, "__path__", None) or ()]
    except Exception:  # modules that make up their attributes
        return []


def _is_library(name: str) -> bool:
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    folders = {Path(sysconfig.get_path(which)) for which in ("stdlib", "purelib", "platlib")}
    return name in sys.builtin_module_names or bool(file and folders & set(Path(file).parents))


class Loaded:
    """What was loaded while a bundle was run.

    Args:
        files: in order, each once.
        names: of the tensors in them, with their shapes.
    """

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.names: set[tuple[str, tuple[int, ...]]] = set()

    def add(self, file: Any, content: Any = None) -> None:
        """Note a file and the tensors that it held."""
        if isinstance(file, (str, os.PathLike)):
            path = Path(file).resolve()
            if path not in self.files:
                self.files.append(path)
        self._note(content, 0)

    def _note(self, content: Any, depth: int) -> None:
        if isinstance(content, dict) and depth < 3:
            for name, value in content.items():
                if isinstance(value, torch.Tensor):
                    self.names.add((str(name), tuple(value.shape)))
                else:
                    self._note(value, depth + 1)


@contextmanager
def bundle_process(scripts: BundleScripts, trust: bool) -> Iterator[Loaded]:
    """Run a bundle's own code in its folder; what it changes in the process is put back.

    Put back are the working folder, ``sys.path``, random states, torch's deterministic settings and ``torch.load``. No
    bytecode is written into the bundle.

    Args:
        scripts: the bundle's modules.
        trust: load what needs pickle, after it did not load as weights alone.
    """
    loaded = Loaded()
    scripts.install()
    with ExitStack() as stack:
        stack.enter_context(patch.object(sys, "dont_write_bytecode", True))
        stack.enter_context(_kept_settings())
        stack.enter_context(patch.object(torch, "load", _loader(torch.load, loaded, trust)))
        stack.enter_context(patch.object(torch.jit, "load", _script_loader(torch.jit.load, loaded)))
        stack.callback(sys.path.__setitem__, slice(None), list(sys.path))
        stack.callback(os.chdir, os.getcwd())
        os.chdir(scripts.root)
        yield loaded


@contextmanager
def _kept_settings() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    flags = (cudnn.benchmark, cudnn.deterministic)
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    seed = monai.utils.misc._seed
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - bundles seed it
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            cudnn.benchmark, cudnn.deterministic = flags
            torch.use_deterministic_algorithms(deterministic, warn_only=only_warns)
            monai.utils.misc._seed = seed


def _check_exists(file: Any) -> None:
    if isinstance(file, (str, os.PathLike)) and not Path(file).is_file():
        raise TargetError(f"there are no weights at {file}: download the bundle's weights, or set their path.")


def _loader(inner: Any, loaded: Loaded, trust: bool) -> Any:
    def load(f: Any, map_location: Any = None, pickle_module: Any = None, **options: Any) -> Any:
        _check_exists(f)
        options.pop("weights_only", None)
        if map_location is None and not torch.cuda.is_available():
            map_location = "cpu"  # weights that were saved on a GPU
        try:
            content = inner(f, map_location=map_location, weights_only=True, **options)
        except pickle.UnpicklingError as error:
            if not trust:
                raise TargetError(
                    f"{f} does not load as weights alone (weights_only=True): it is damaged, or holds pickled objects, "
                    "which run code when they are loaded; pass --trust (trust=True) if you trust where it comes from."
                ) from error
            if hasattr(f, "seek"):
                f.seek(0)
            content = inner(f, map_location, pickle_module, weights_only=False, **options)
        loaded.add(f, content)
        return content

    return load


def _script_loader(inner: Any, loaded: Loaded) -> Any:
    def load(f: Any, *args: Any, **options: Any) -> Any:
        _check_exists(f)
        script = inner(f, *args, **options)
        loaded.add(f, dict(script.state_dict()))
        return script

    return load


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file below a folder, to see that none was written."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            state = os.lstat(os.path.join(folder, name))
            found[os.path.relpath(os.path.join(folder, name), root)] = (state.st_size, state.st_mtime_ns)
    return found
