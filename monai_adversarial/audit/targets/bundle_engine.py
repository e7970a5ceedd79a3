# SPDX-License-Identifier: Apache-2.0
"""The live evaluator of a MONAI bundle: its own run list up to it, its weights in it, nothing in it that writes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointLoader
from monai.transforms import Compose

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.bundle_config import (
    BundleConfig,
    contents,
    follow,
    is_saver,
    open_config,
    plain_parser,
)
from monai_adversarial.audit.targets.bundle_process import BundleScripts, Loaded, bundle_process
from monai_adversarial.audit.targets.bundle_relabeling import leave_out_relabeling
from monai_adversarial.audit.targets.bundle_rounding import round_classes
from monai_adversarial.models.engine_parts import check_engine, postprocessing_of, steps_of

__all__ = ["BundleSource", "LiveBundle", "first_cause", "open_bundle", "sentence_of"]


@dataclass(frozen=True)
class BundleSource:
    """All that it takes to run a bundle: it may be run more than once.

    Args:
        root: its folder.
        files: config files, in order.
        metadata: its metadata file; None without.
        overrides: identifier -> content.
        device: None leaves the bundle's own.
        work: folder for what it writes.
        trust: load what needs pickle.
        run_id: of the run list; None for the bundle's own.
        scripts: its modules.
    """

    root: Path
    files: Sequence[Path]
    metadata: Path | None
    overrides: Mapping[str, Any]
    device: str | None
    work: Path
    trust: bool
    run_id: str | None
    scripts: BundleScripts


@dataclass
class LiveBundle:
    """A bundle that was run up to its evaluator.

    Args:
        config: as it was run.
        engine: the evaluator, with the weights loaded.
        loaded: the files that were loaded.
        run: text of the items that were run.
        savers: classes that were taken out of live objects, beyond those of the config.
        relabeling: transforms that only gave the segmentation other values, and were left out.
        rounded: class numbers were interpolated, and are rounded.
    """

    config: BundleConfig
    engine: SupervisedEvaluator
    loaded: Loaded
    run: list[str] = field(default_factory=list)
    savers: list[str] = field(default_factory=list)
    relabeling: list[str] = field(default_factory=list)
    rounded: bool = False


def first_cause(error: BaseException) -> BaseException:
    """The error below those that MONAI wraps around it."""
    seen: list[BaseException] = []
    while error.__cause__ is not None and error not in seen:
        if isinstance(error, TargetError):
            return error
        seen.append(error)
        error = error.__cause__
    return error


def sentence_of(error: BaseException) -> str:
    """Kind and first line of the first cause."""
    cause = first_cause(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__


def open_bundle(source: BundleSource) -> LiveBundle:
    """Run a bundle up to its evaluator.

    Raises:
        TargetError: for a bundle that cannot be run, one sentence that says whether it fails by itself.
    """
    try:
        with bundle_process(source.scripts, source.trust) as loaded:
            config = _config(source, source.overrides)
            live = _run_to_evaluator(config, loaded)
    except TargetError:
        raise
    except Exception as error:
        raise _explained(source, error) from error
    return live


def _config(source: BundleSource, overrides: Mapping[str, Any]) -> BundleConfig:
    return open_config(
        source.files,
        source.metadata,
        overrides,
        root=source.root,
        device=source.device,
        work=source.work,
        run_id=source.run_id,
    )


def _run_to_evaluator(config: BundleConfig, loaded: Loaded) -> LiveBundle:
    parser, run = config.parser, []
    for name in config.before:
        run.append(str(parser[name]))
        parser.get_parsed_content(name)
        parser.ref_resolver.remove_resolved_content(name)
    engine = parser.get_parsed_content(config.evaluator)
    try:
        check_engine(engine)
    except TypeError as error:
        raise TargetError(f"the bundle's {config.evaluator!r} cannot be audited: {error}") from error
    if not isinstance(engine, SupervisedEvaluator):
        raise TargetError(
            f"the bundle's {config.evaluator!r} is a {type(engine).__name__}: an audit needs an evaluation, not a "
            "training; name the config files of the evaluation or inference."
        )
    _load_attached(engine)
    live = LiveBundle(config, engine, loaded, run)
    live.savers = _without_savers(engine)
    live.relabeling = leave_out_relabeling(postprocessing_of(engine))
    live.rounded = round_classes(postprocessing_of(engine))
    return live


def _load_attached(engine: SupervisedEvaluator) -> None:
    """Load weights that a handler would load when the engine starts."""
    for handler, _, _ in list(engine._event_handlers.get(Events.STARTED, [])):
        if isinstance(handler, CheckpointLoader):
            handler(engine)


def _without_savers(engine: SupervisedEvaluator) -> list[str]:
    """Take transforms and handlers that write files out of a live engine."""
    names: list[str] = []
    postprocessing = postprocessing_of(engine)
    _thin_out(postprocessing, names)
    if steps_of(postprocessing) and is_saver(type(steps_of(postprocessing)[0]).__name__):
        raise TargetError("the bundle's postprocessing is a saver and nothing else: it has to be a Compose.")
    for handlers in engine._event_handlers.values():
        for entry in list(handlers):
            owner = type(getattr(entry[0], "__self__", entry[0])).__name__
            if is_saver(owner):
                handlers.remove(entry)
                names.append(owner)
    return list(dict.fromkeys(names))


def _thin_out(transform: Any, names: list[str]) -> None:
    if not isinstance(transform, Compose):
        return
    kept = []
    for member in transform.transforms:
        if member is None or (not isinstance(member, Compose) and is_saver(type(member).__name__)):
            names.extend([] if member is None else [type(member).__name__])
            continue
        _thin_out(member, names)
        kept.append(member)
    transform.transforms = tuple(kept) if isinstance(transform.transforms, tuple) else kept


def _explained(source: BundleSource, error: Exception) -> TargetError:
    """Whether the bundle itself fails, as it stands, or only as an audit runs it."""
    cause = first_cause(error)
    if isinstance(cause, TargetError):
        return cause
    if isinstance(cause, RuntimeError) and "loading state_dict" in str(cause):
        return TargetError(f"the weights of the bundle {source.root.name} do not fit its network: {_mismatch(cause)}")
    said = sentence_of(error)
    own = _failure_of(lambda: _build_unmodified(source, source.overrides), source)
    if own is None:
        return TargetError(f"the bundle {source.root.name} cannot be run up to its evaluator: {said}")
    if source.overrides and _failure_of(lambda: _build_unmodified(source, {}), source) is None:
        return TargetError(f"the bundle {source.root.name} fails with the overrides that were given: {own}")
    if isinstance(cause, ImportError):
        return TargetError(f"the bundle {source.root.name} needs a package that does not import here: {own}")
    told = " also with the overrides that were given" if source.overrides else ""
    return TargetError(f"the bundle {source.root.name} itself fails on MONAI {monai.__version__}{told}: {own}")


def _mismatch(cause: BaseException) -> str:
    return "; ".join(line.strip().rstrip(". ") for line in str(cause).splitlines()[1:3]) or str(cause)


def _failure_of(action: Callable[[], None], source: BundleSource) -> str | None:
    try:
        with bundle_process(source.scripts, source.trust), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action()
    except Exception as error:
        return sentence_of(error)
    return None


def _build_unmodified(source: BundleSource, overrides: Mapping[str, Any]) -> None:
    """Build what the evaluator consists of from the config as it stands, its data left out as they may not be here."""
    parser = plain_parser(source.files, source.metadata, overrides)
    if "bundle_root" in contents(parser) and "bundle_root" not in overrides:
        parser["bundle_root"] = f"${str(source.root)!r}"
    place, section = follow(parser, _config(source, overrides).evaluator)
    for name in section:
        if name not in ("_target_", "val_data_loader", "data_loader", "val_handlers"):
            parser.get_parsed_content(f"{place}#{name}")
