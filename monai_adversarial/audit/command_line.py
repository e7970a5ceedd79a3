# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_adversarial audit``: one command for a bundle, an nnU-Net, an exported network or a served one."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_adversarial.audit.audit import as_target, audit, budget_units
from monai_adversarial.audit.dicom_cases import dicom_cases, is_dicom
from monai_adversarial.audit.dry_run import dry_run
from monai_adversarial.audit.facts import TargetError, missing_sentence
from monai_adversarial.audit.itk_cases import holds_itk_volumes, itk_cases
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.plan import load_plan, plan_names
from monai_adversarial.audit.report.check import check_summary
from monai_adversarial.audit.shard import Shard
from monai_adversarial.audit.subgroups import read_subgroups
from monai_adversarial.audit.surrogate import surrogate_for
from monai_adversarial.audit.target import AuditTarget
from monai_adversarial.data import find_cases
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies.command_line import TRACEBACK_VARIABLE, USER_ERRORS, root_sentence
from monai_adversarial.studies.study import StudyError

__all__ = ["main"]

#: exit status: done, some cells failed, cannot be done as asked, interrupted
DONE, SOME_FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        The exit status: 0 done, 1 some cases failed, 2 refused, 130 interrupted.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    # MONAI's readers say on every use that a decoder for compressed DICOM on GPUs is absent.
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    try:
        return _audit(options)
    except KeyboardInterrupt:
        print("interrupted: start the same command again to continue.", file=sys.stderr)
        return INTERRUPTED
    except StudyError:
        return SOME_FAILED  # said by the study
    except USER_ERRORS as error:
        if os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
            raise
        print(f"error: {root_sentence(error)}", file=sys.stderr)
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m monai_adversarial", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    # Taken by ``__main__``, which does not read what a bundle's ids are: here for the help alone.
    commands.add_parser("run", help="a MONAI bundle with an overlay that attacks it, as python -m monai.bundle run")
    made = commands.add_parser(
        "audit",
        allow_abbrev=False,
        help="how robust a deployed network is, in one report",
        description="Audits a deployed segmentation network: what it loses under chance, under natural variation and "
        "under attack, organ by organ, in one report.",
    )
    target = made.add_argument_group("what is audited (one of)").add_mutually_exclusive_group(required=True)
    target.add_argument("--bundle", metavar="DIR", help="a MONAI bundle, unmodified")
    target.add_argument("--nnunet", metavar="DIR", help="an nnU-Net v2 results folder (plans.json, fold_x)")
    target.add_argument("--model", metavar="FILE", help="TorchScript (.ts, .pt), torch.export (.pt2) or ONNX (.onnx)")
    target.add_argument("--served", metavar="URL", help="a server that speaks KServe v2 / Triton's HTTP protocol")
    target.add_argument("--python", metavar="MODULE:NAME", help="TargetParts, AuditTarget or AttackedModel, or a "
                        "function without arguments that makes one")  # fmt: skip
    data = made.add_argument_group("data")
    data.add_argument("--data", required=True, metavar="PATH", help="folder, datalist, file, or CT series (DICOM)")
    data.add_argument("--section", help="of the datalist")
    data.add_argument("--no-labels", action="store_true", help="stability against the clean prediction, labels unread")
    data.add_argument("--unlabeled", choices=("refuse", "keep", "skip"), default="refuse",
                      help="images without a label beside images with one")  # fmt: skip
    data.add_argument("--limit", type=int, default=0, metavar="N", help="the first N cases")
    data.add_argument("--names", action="store_true", help="cases are named by their files, which may name patients")
    data.add_argument("--data-kind", default="", metavar="WORD", help="what the data are: phantoms, scans, ...")
    data.add_argument("--subgroups", metavar="CSV", help="columns such as scanner, sex, age; the first names the case")
    plan = made.add_argument_group("plan and output")
    plan.add_argument("--plan", default="quick", metavar="PLAN", help=f"{', '.join(plan_names())} or a YAML file")
    plan.add_argument("--rows", metavar="A,B", help="of the plan, to keep")
    plan.add_argument("--seed", type=int, help="instead of the plan's")
    plan.add_argument("--out", required=True, metavar="DIR", help="records, pictures and report")
    plan.add_argument("--images", action="store_true", help="save adversarial images on the grid of their files")
    plan.add_argument("--no-pictures", action="store_true", help="draw nothing")
    plan.add_argument("--compare", nargs="+", default=[], metavar="DIR", help="other audits, shown beside this one")
    plan.add_argument(
        "--title", default="", metavar="TEXT", help="of the report, instead of one with the target's name"
    )
    plan.add_argument("--dry-run", action="store_true", help="what was read, what must be told, what the plan costs")
    plan.add_argument("--shard", metavar="RANK/COUNT", help="run this part of the cases (job arrays)")
    told = made.add_argument_group("what the target cannot say")
    told.add_argument("--trust", action="store_true", help="load pickled weights and modules, which run code")
    told.add_argument("--device", help="cpu, cuda:0, ...")
    told.add_argument("--class-names", metavar="A,B", help="background first, separated by commas")
    told.add_argument("--activation", choices=("softmax", "sigmoid"))
    told.add_argument("--window", nargs="+", metavar="LOW HIGH", help="HU that the network sees as 0..1, or none")
    told.add_argument("--output-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="instead of 0..1")
    told.add_argument("--spacing", type=float, nargs="+", metavar="MM", help="voxel size of the network's grid")
    told.add_argument("--orientation", metavar="RAS", help="of the network's grid, or file for the file's own")
    told.add_argument("--roi-size", type=int, nargs="+", metavar="N", help="of the sliding window")
    told.add_argument("--overlap", type=float, help="of sliding windows")
    told.add_argument("--blending", choices=("constant", "gaussian"), help="of sliding windows")
    told.add_argument("--sw-batch-size", type=int, metavar="N", help="windows that go through the network at once")
    told.add_argument("--in-channels", type=int, metavar="N", help="channels of the image")
    told.add_argument("--output", help="index or name of the output, for a network with several")
    told.add_argument("--output-values", choices=("logits", "probabilities"))
    told.add_argument("--whole-size", type=int, nargs="+", metavar="N", help="the whole volume is resized to it")
    told.add_argument("--crop-foreground", action="store_true", help="CropForeground before resizing")
    told.add_argument("--pipeline", metavar="FILE", help="MONAI config with preprocessing, inferer, postprocessing")
    told.add_argument("--model-name", help="of a served model")
    told.add_argument("--folds", metavar="0,1,2", help="of an nnU-Net; all for fold_all")
    told.add_argument("--mirroring", action="store_true", help="an nnU-Net's test-time mirroring")
    told.add_argument("--checkpoint", help="of an nnU-Net: checkpoint_final.pth, checkpoint_best.pth")
    told.add_argument("--config-file", nargs="+", metavar="FILE", help="of a bundle, instead of its inference config")
    told.add_argument("--run-id", help="of a bundle with several run lists")
    told.add_argument("--override", nargs="+", default=[], metavar="ID=VALUE", help="of a bundle's config")
    told.add_argument("--transfer-from", metavar="DIR", help="another bundle, whose gradients transfer rows follow")
    return parser


def _audit(options: argparse.Namespace) -> int:
    parts = _read_target(options)
    target = parts if isinstance(parts, AuditTarget) else as_target(parts)
    try:
        cases = _cases(options, target)
        groups = read_subgroups(options.subgroups, cases) if options.subgroups else {}
        surrogate = None
        if options.transfer_from:
            from monai_adversarial.audit.targets.bundle import read_bundle

            other = AuditTarget(read_bundle(options.transfer_from, trust=options.trust))
            target.parts.resources.callback(other.close)
            surrogate = surrogate_for(target, other.model)
        compare = [_other_audit(folder) for folder in options.compare]  # before hours of work
        plan = load_plan(
            options.plan,
            budget_units(target),
            target.differentiable,
            surrogate is not None,
            options.rows,
            options.seed,
            len(cases),
        )
        if options.dry_run:
            print(dry_run(target, cases, plan))
            return REFUSED if target.missing else DONE
        if target.missing:
            raise TargetError(missing_sentence(target.name, target.missing))
        audit(
            target,
            cases,
            plan,
            options.out,
            groups=groups,
            surrogate=surrogate,
            images=options.images,
            pictures=not options.no_pictures,
            data_kind=options.data_kind,
            shard=Shard.from_text(options.shard) if options.shard else None,
            compare=compare,
            title=options.title,
        )
    finally:
        target.close()
    return DONE


def _cases(options: argparse.Namespace, target: AuditTarget) -> list[dict[str, Any]]:
    if options.limit < 0:
        raise ValueError(f"limit must be a number of cases >= 0, got {options.limit}.")
    names = _names(options.class_names) or target.model.class_names
    if is_dicom(options.data):
        folder = Path(options.out) / "inputs"
        return dicom_cases(options.data, folder, names, options.limit, labels=not options.no_labels)
    layout: dict[str, Any] = {
        "section": options.section,
        "limit": options.limit,
        "anonymize": not options.names,
        "unlabeled": "keep" if options.no_labels else options.unlabeled,
        "class_names": names,
        "merge_dir": Path(options.out) / "merged_labels",
    }
    if holds_itk_volumes(options.data):
        work = target.parts.resources.enter_context(tempfile.TemporaryDirectory(prefix="monai_adversarial_"))
        cases = itk_cases(options.data, work, **layout)
    else:
        cases = find_cases(options.data, **layout)
    if options.no_labels:
        cases = [{key: value for key, value in case.items() if key != "label"} for case in cases]
    return cases


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _other_audit(folder: str) -> dict[str, Any]:
    file = Path(folder) / "audit.json"
    if not file.is_file():
        raise FileNotFoundError(f"compare: there is no audit in {folder} (no audit.json).")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"compare: {file} cannot be read as JSON: {' '.join(str(error).split())[:100]}.") from error
    check_summary(found, f"compare: {file}")
    return found


#: options that some kinds of target alone understand
_OF_EXPORTED = (
    *("window", "output_range", "spacing", "orientation", "roi_size", "overlap", "blending", "sw_batch_size"),
    *("whole_size", "crop_foreground", "activation", "output_values", "output", "in_channels", "pipeline"),
)
_ONLY = {
    "bundle": ("config_file", "override", "run_id", "activation"),
    "nnunet": ("folds", "mirroring", "checkpoint"),
    "model": _OF_EXPORTED,
    "served": (*_OF_EXPORTED, "model_name"),
    "python": (),
}


def _read_target(options: argparse.Namespace) -> TargetParts | AuditTarget:
    kind = next(name for name in _ONLY if getattr(options, name))
    foreign = {name for names in _ONLY.values() for name in names} - set(_ONLY[kind])
    given = sorted(name for name in foreign if getattr(options, name))
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} means nothing for --{kind}.")
    if kind == "python":
        for name in ("device", "trust", "class_names"):
            if getattr(options, name):
                raise ValueError(
                    f"--{name.replace('_', '-')} means nothing for --python: say it where the target is made."
                )
    common: dict[str, Any] = {"device": options.device, "trust": options.trust}
    names = _names(options.class_names)
    if kind == "bundle":
        from monai_adversarial.audit.targets.bundle import read_bundle

        if options.activation:
            common["activation"] = options.activation
        return read_bundle(
            options.bundle,
            config_files=options.config_file,
            overrides=dict(_override(text) for text in options.override),
            class_names=names,
            run_id=options.run_id,
            **common,
        )
    if kind == "nnunet":
        from monai_adversarial.audit.targets.nnunet import read_nnunet

        folds: Any = options.folds
        if folds not in (None, "all"):
            folds = [_fold(text) for text in folds.split(",")]
        if names is not None:
            common["class_names"] = names
        checkpoint = options.checkpoint or "checkpoint_final.pth"
        return read_nnunet(options.nnunet, folds=folds, checkpoint=checkpoint, mirroring=options.mirroring, **common)
    if kind == "python":
        return _of_python(options.python)
    from monai_adversarial.audit.targets.exported import PipelineOptions, read_exported

    said: dict[str, Any] = {name: getattr(options, name) for name in _OF_EXPORTED}
    said["pipeline_file"] = said.pop("pipeline")
    said["window"] = _window(said["window"])
    if (said["output"] or "").lstrip("-").isdecimal():
        said["output"] = int(said["output"])
    told = {name: _tuple(value) for name, value in said.items() if value is not None}
    more = {"model_name": options.model_name} if options.model_name else {}
    return read_exported(options.model or options.served, PipelineOptions(**told, class_names=names), **common, **more)


def _window(words: list[str] | None) -> Any:
    if words is None or words == ["none"]:
        return None if words is None else "none"
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        numbers = ()
    if len(numbers) != 2:
        raise ValueError(f"window must be two numbers in HU, or none, got {' '.join(words)!r}.")
    return numbers


def _fold(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"folds must be numbers separated by commas, or all for fold_all, got {text!r}.")
    return int(text)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _override(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ValueError(f"override must be ID=VALUE, got {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _of_python(text: str) -> AuditTarget:
    module, separator, name = text.partition(":")
    if not separator:
        raise ValueError(f"python must be MODULE:NAME, got {text!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name, None)
        ready = isinstance(found, (AuditTarget, TargetParts, AttackedModel))
        made = found if ready or not callable(found) else found()
    except TargetError:
        raise
    except (Exception, SystemExit) as error:  # of somebody else's program
        said = f"{type(error).__name__}: {root_sentence(error)}"
        raise TargetError(f"python: {text} fails by itself: {said}") from error
    if found is None:
        raise ValueError(f"python: the module {module} has no {name!r}.")
    if isinstance(made, (str, os.PathLike)):
        raise TypeError(f"python: {text} gives a path; it must give TargetParts, an AuditTarget or an AttackedModel.")
    return as_target(made)
