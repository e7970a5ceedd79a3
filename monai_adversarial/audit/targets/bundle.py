# SPDX-License-Identifier: Apache-2.0
"""A MONAI bundle as the target of an audit: its folder, unmodified, read into ``TargetParts``."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import PrepareBatchDefault, default_prepare_batch
from monai.networks.utils import eval_mode
from monai.transforms import Invertd, Lambdad
from monai.utils import CommonKeys

from monai_adversarial.audit.facts import Fact, Missing, TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.bundle_config import choose_config_files, contents
from monai_adversarial.audit.targets.bundle_engine import BundleSource, LiveBundle, open_bundle
from monai_adversarial.audit.targets.bundle_items import SeveralFiles, loaded_keys, refuse_clicks, takes_label
from monai_adversarial.audit.targets.bundle_metadata import (
    channel_names,
    check_task,
    different_versions,
    read_metadata,
)
from monai_adversarial.audit.targets.bundle_process import BundleScripts, listing
from monai_adversarial.audit.targets.bundle_reference import BundleReference
from monai_adversarial.models.engine_parts import postprocessing_of, preprocessing_of, steps_of
from monai_adversarial.models.read_postprocessing import (
    activation_of_postprocessing,
    classes_of_postprocessing,
    custom_reading,
)
from monai_adversarial.utils.hashing import file_hash
from monai_adversarial.utils.validation import check_flag

__all__ = ["read_bundle"]


def read_bundle(
    bundle_dir: str | Path,
    *,
    config_files: Sequence[str] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    trust: bool = False,
    class_names: Sequence[str] | None = None,
    work_dir: str | Path | None = None,
    run_id: str | None = None,
    **told: Any,
) -> TargetParts:
    """Read an unmodified MONAI bundle: its own run list is run up to its evaluator, on which the audit works.

    A bundle's configs and scripts are programs, and are run here as MONAI runs them. Its own data need not be there,
    and nothing is written into its folder: dataset, output folder and savers are replaced, which ``facts`` list.

    Args:
        bundle_dir: folder of the bundle, with ``configs`` and ``models``.
        config_files: config files in order, names in ``configs`` or paths; None for ``inference.json`` or ``.yaml``, or
            else ``train`` and ``evaluate``.
        overrides: config identifier -> content, as MONAI's runner takes them (``inferer#roi_size``). Relative paths in
            them start from the bundle's folder.
        device: None leaves the bundle's own choice.
        trust: load checkpoints that need pickle, which runs code that is in them.
        class_names: names of the network's output channels; None for those of ``metadata.json``.
        work_dir: folder for what the bundle writes; None for a temporary one, removed when ``resources`` are closed.
        run_id: run list that starts the evaluator; None for ``run``, or the only one.
        told: further arguments of ``AttackedModel``, for what cannot be read.

    Raises:
        TargetError: one sentence: no bundle, no segmentation, no weights, weights that need ``trust``, an override of
            something that is not there, a bundle that fails by itself on this version of MONAI.
    """
    root = Path(bundle_dir).expanduser().resolve()
    files = choose_config_files(root, config_files)
    metadata_file = files[0].parent / "metadata.json"
    metadata = read_metadata(metadata_file)
    check_task(metadata, root.name)
    with ExitStack() as stack:
        if work_dir is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="monai_adversarial_bundle_")))
        else:
            work = Path(work_dir).resolve()
        (work / "no_data").mkdir(parents=True, exist_ok=True)
        scripts = BundleScripts(root)
        stack.callback(scripts.remove)
        before = listing(root)
        source = BundleSource(
            root=root,
            files=files,
            metadata=metadata_file if metadata else None,
            overrides=dict(overrides or {}),
            device=None if device is None else str(device),
            work=work,
            trust=check_flag("trust", trust),
            run_id=run_id,
            scripts=scripts,
        )
        live = open_bundle(source)
        _check_live(live)
        parts = _parts(source, live, metadata, class_names, told)
        parts.facts = (*parts.facts, *_written(root, before))
        parts.resources = stack.pop_all()
    return parts


def _check_live(live: LiveBundle) -> None:
    engine = live.engine
    if type(engine)._iteration is not SupervisedEvaluator._iteration or engine._process_function != engine._iteration:
        raise TargetError(
            f"the bundle's {type(engine).__name__} has an iteration of its own, with further inputs of the network "
            "(prompts) that an audit does not have: attack it in its own run, with PrepareBatchAdversarial in its "
            "config."
        )
    if not live.loaded.files:
        raise TargetError(
            "the bundle loads no weights before its evaluator runs, so that its network is random: check that the "
            "checkpoint is where its config expects it (models/model.pt), and load_pretrain."
        )
    if engine.mode is not eval_mode:
        raise TargetError("the bundle's evaluator runs its network in training mode: an audit needs mode 'eval'.")
    refuse_clicks(preprocessing_of(engine))


def _parts(
    source: BundleSource,
    live: LiveBundle,
    metadata: Mapping[str, Any],
    class_names: Sequence[str] | None,
    told: dict[str, Any],
) -> TargetParts:
    engine = live.engine
    image_key, label_key, pred_key = CommonKeys.IMAGE.value, CommonKeys.LABEL.value, CommonKeys.PRED.value
    preprocessing, postprocessing = preprocessing_of(engine), postprocessing_of(engine)
    given = contents(live.config.parser).get("image_key")
    image_key = given if isinstance(given, str) and given.isidentifier() else image_key
    keys = [key for key in loaded_keys(preprocessing) if key != label_key]
    further = [key for key in keys if key != image_key] if image_key in keys else []
    if further:
        raise TargetError(
            f"the bundle's preprocessing loads {', '.join(further)} beside {image_key}, which an audit does not have."
        )
    several = SeveralFiles(preprocessing, image_key, keys) if keys and image_key not in keys else None
    needs_label = takes_label(preprocessing, label_key)
    facts = _facts(source, live, metadata, postprocessing, pred_key)
    if several is not None:
        facts.append(Fact("image", f"{len(keys)} files: {', '.join(keys)}, in this order", live.config.dataset))
    names, about_names = _names(live, metadata, class_names, postprocessing)
    read = activation_of_postprocessing(postprocessing, pred_key)
    masks = (read[0] if read else told.get("activation")) == "sigmoid"
    network = engine.network.eval()
    return TargetParts(
        kind="MONAI bundle",
        name=str(metadata.get("name") or source.root.name),
        network=network,
        inferer=engine.inferer,
        preprocessing=preprocessing if several is None else several,
        postprocessing=postprocessing,
        engine=engine,
        prepare_batch=None if _is_default(engine.prepare_batch) else engine.prepare_batch,
        image_key=image_key,
        label_key=label_key,
        pred_key=pred_key,
        preprocesses_label=needs_label,
        told={**({} if names is None else {"class_names": names}), **told},
        facts=(*facts, *about_names),
        missing=_missing(postprocessing, pred_key, told),
        hashes=_hashes(source, live),
        reference_prediction=BundleReference(source, image_key, label_key, pred_key, several, needs_label, masks),
    )


def _is_default(prepare_batch: Any) -> bool:
    return prepare_batch is default_prepare_batch or type(prepare_batch) is PrepareBatchDefault


def _facts(
    source: BundleSource, live: LiveBundle, metadata: Mapping[str, Any], postprocessing: Any, pred_key: str
) -> list[Fact]:
    config, place = live.config, "config"
    files = ", ".join(file.name for file in source.files)
    facts = [
        Fact("configs", files, told=False),
        Fact("run list", "; ".join(live.run) or "nothing before the evaluator", config.evaluator),
        Fact("not run", "; ".join(config.not_run), place),
        Fact("replaced", "; ".join(f"{name} ({what})" for name, what in config.replaced.items()), place),
    ]
    facts += [
        Fact("override", f"{name} = {value!r}", "overrides", told=True) for name, value in source.overrides.items()
    ]
    savers = list(dict.fromkeys([*config.savers, *live.savers]))
    if savers:
        facts.append(Fact("savers left out", ", ".join(savers), place))
    facts.append(Fact("weights", ", ".join(_shown(file, source.root) for file in live.loaded.files), "the run list"))
    facts += _unknown_weights(live)
    steps = [type(step).__name__ for step in steps_of(postprocessing)]
    facts.append(Fact("postprocessing", ", ".join(steps) or "none", config.evaluator))
    if live.relabeling:
        names = ", ".join(live.relabeling)
        facts.append(Fact("relabeling left out", f"{names}: classes are the network's channels", place))
    if live.rounded:
        said = "the bundle interpolates them linearly (Invertd, nearest_interp false): rounded to the nearest class"
        facts.append(Fact("class numbers", said, place))
    changed = _own_steps(postprocessing, pred_key)
    if changed:
        facts.append(Fact("the bundle's own postprocessing", f"{changed}: values need not be channels", place))
    if not any(isinstance(step, Invertd) and pred_key in step.keys for step in steps_of(postprocessing)):
        facts.append(Fact("grid of the segmentation", "the network's (no Invertd)", place))
    different = different_versions(metadata)
    if different:
        facts.append(Fact("other versions than its own", ", ".join(different), "metadata.json"))
    return facts


def _shown(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if root in file.parents else file.name


def _unknown_weights(live: LiveBundle) -> list[Fact]:
    """Tensors of the network that no checkpoint holds by name and shape: they may be as they were drawn."""
    own = {name: tuple(value.shape) for name, value in live.engine.network.state_dict().items()}
    unknown = [name for name, shape in own.items() if (name, shape) not in live.loaded.names]
    if not unknown:
        return []
    text = (
        f"{len(unknown)} of {len(own)} tensors of the network are in no checkpoint by this name (first: {unknown[0]})"
    )
    warnings.warn(f"{text}: they may be random.", stacklevel=2)
    return [Fact("weights that are not known", text, "the checkpoints")]


def _own_steps(postprocessing: Any, pred_key: str) -> str | None:
    """The transforms of a segmentation that are not MONAI's or whose function is not, by name."""
    names = [
        f"`postprocessing#{number}` ({type(step).__name__})"
        for number, step in enumerate(steps_of(postprocessing))
        if pred_key in getattr(step, "keys", ())
        and (isinstance(step, Lambdad) or not type(step).__module__.startswith(("monai.", "monai_adversarial.")))
    ]
    return ", ".join(names) or None


def _names(
    live: LiveBundle, metadata: Mapping[str, Any], class_names: Sequence[str] | None, postprocessing: Any
) -> tuple[list[str] | None, list[Fact]]:
    """Class names, counted against the network's channels where these are known."""
    count, where = _channels(live, postprocessing)
    if class_names is not None:
        names = [str(name) for name in class_names]
        if count is not None and len(names) != count:
            raise TargetError(f"class_names has {len(names)} names, but the network has {count} channels ({where}).")
        return names, [Fact("classes", ", ".join(names), "class_names", told=True)]
    found = channel_names(metadata)
    if found is None:
        return None, []
    if count is not None and len(found) != count:
        text = f"{len(found)} names for a network with {count} channels ({where}): not used"
        return None, [Fact("classes", text, "metadata.json")]
    return found, [Fact("classes", ", ".join(found), "metadata.json, channel_def")]


def _channels(live: LiveBundle, postprocessing: Any) -> tuple[int | None, str]:
    declared = getattr(live.engine.network, "out_channels", None)
    if isinstance(declared, int) and not isinstance(declared, bool):
        return declared, "network.out_channels"
    for name in ("out_channels", "num_classes"):
        try:
            told = live.config.parser.get_parsed_content(f"network_def#{name}")
        except Exception:  # a network that is defined in another way
            continue
        if isinstance(told, int) and not isinstance(told, bool):
            return told, f"network_def#{name}"
    return classes_of_postprocessing(postprocessing), "to_onehot"


def _missing(postprocessing: Any, pred_key: str, told: Mapping[str, Any]) -> list[Missing]:
    own = custom_reading(postprocessing, pred_key)
    if own is None or told.get("activation") or activation_of_postprocessing(postprocessing, pred_key):
        return []
    why = f"{own} reads the network's answer in its own way"
    return [Missing("activation", "--activation softmax|sigmoid", why)]


def _hashes(source: BundleSource, live: LiveBundle) -> dict[str, str]:
    hashes = {f"weights {_shown(file, source.root)}": file_hash(file) for file in live.loaded.files}
    hashes["weights"] = _joined([hashes[name] for name in hashes])
    configs = [*source.files, *([] if source.metadata is None else [source.metadata])]
    each = {f"config {file.name}": file_hash(file) for file in configs}
    own = [file for file in source.scripts.files() if file.is_file()]
    each |= {f"script {_shown(file, source.root)}": file_hash(file) for file in own}
    return {**hashes, **each, "config": _joined(list(each.values()))}


def _joined(digests: Sequence[str]) -> str:
    """One digest as it is; of several, the digest of all in order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _written(root: Path, before: Mapping[str, tuple[int, int]]) -> list[Fact]:
    after = listing(root)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if not changed:
        return []
    text = f"{', '.join(changed[:5])}{' and more' if len(changed) > 5 else ''}"
    warnings.warn(f"the bundle's own code wrote into its folder: {text}.", stacklevel=2)
    return [Fact("written into the bundle's folder", text, "its own code")]
